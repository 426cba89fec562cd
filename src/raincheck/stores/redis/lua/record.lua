-- Records, for scripts that name it.

local RECORD_NONCES = 32
local NEVER, MARGIN = 3153600000000, 86400000
-- A removed record stays as its nonces, of version 0, until no write of it can be sent again.
local GONE = 120000

local function read_record(place)
  local found = redis.call('HMGET', place, 'n', 'w')
  return {version = found[1] and string.match(found[1], '^%S+') or '0', nonces = found[2] or ''}
end

local function with_nonce(record, nonce)
  if record.nonces == '' then
    return nonce
  end
  local nonces = record.nonces .. ',' .. nonce
  local _, number = string.gsub(nonces, ',', ',')
  return number >= RECORD_NONCES and string.gsub(nonces, '^[^,]*,', '', 1) or nonces
end

-- How long it outlives its moment where nobody purges. The moment may be by another clock than the server's.
local function ttl_of_record(expires)
  if expires == '-' then
    return NEVER
  end
  local time = redis.call('TIME')
  local left = tonumber(expires) / 1000 - (time[1] * 1000 + time[2] / 1000)
  return math.min(math.max(left, 0) + MARGIN, NEVER)
end

local function write_record(place, record, kind, key, due, expires, value, nonce)
  local ttl = ttl_of_record(expires)
  redis.call('HSET', place, 'n', table.concat({record.version, due, expires}, ' '), 'v', value, 'w', with_nonce(record, nonce))
  redis.call('PEXPIRE', place, string.format('%.0f', ttl))
  keep_layout(ttl)
  redis.call('ZADD', root .. 'records:' .. kind, 0, key)
  if keep(root .. 'records:' .. kind, ttl) then
    redis.call('SADD', root .. 'kinds', kind)
    keep(root .. 'kinds', ttl + SLACK)
  end
  if due == '-' then
    redis.call('ZREM', root .. 'records-due:' .. kind, key)
  else
    redis.call('ZADD', root .. 'records-due:' .. kind, due, key)
    keep(root .. 'records-due:' .. kind, ttl)
  end
  if expires == '-' then
    redis.call('ZREM', root .. 'records-expiring', kind .. ' ' .. key)
  else
    redis.call('ZADD', root .. 'records-expiring', expires, kind .. ' ' .. key)
    keep(root .. 'records-expiring', ttl)
  end
end

local function delist_record(kind, key)
  redis.call('ZREM', root .. 'records-due:' .. kind, key)
  redis.call('ZREM', root .. 'records-expiring', kind .. ' ' .. key)
  if redis.call('ZREM', root .. 'records:' .. kind, key) == 1 and redis.call('EXISTS', root .. 'records:' .. kind) == 0 then
    redis.call('SREM', root .. 'kinds', kind)
    forget_layout_of_nothing()
  end
end
