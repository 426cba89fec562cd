-- Add a task. 1: it is there; {"held", task_ref, s, i, r}: its key is another's; {"taken"}: its task_ref is;
-- {"full", "in_all" | "of_scope"}: so many are pending already.
local late_at, news, nonce, ttl, ref, scope, operation, key, status, created, due, expires, state, in_all, of_scope =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11],
  ARGV[12], ARGV[13], ARGV[14], ARGV[15]
-- in_all, of_scope: how many tasks may be pending, this one among them; "": any number. ARGV[16] onwards: the fields of
-- the hash beside the state, each with its value.

tell(news)
local task = root .. 'task:' .. ref
local there = redis.call('HGET', task, 's')
if there then
  return wrote(parse(there), nonce) and 1 or {'taken'}
end
local refusal = late(late_at) or foreign()
if refusal then
  return refusal
end
local over, over_ref
local inflight = string.sub(key, 1, 1) == '='
if key ~= '-' then
  local holder = redis.call('GET', root .. 'key:' .. key)
  local held = holder and redis.call('HMGET', root .. 'task:' .. holder, 's', 'i', 'r')
  if held and held[1] then
    over, over_ref = parse(held[1]), holder
    if over.expires == '-' or (not inflight and tonumber(over.expires) > tonumber(created)) then
      return {'held', holder, held[1], held[2], held[3]}
    end
  end
end
if in_all .. of_scope ~= '' then
  -- As many lists as there are operations and priorities in use.
  local function full(owner, most)
    local number = 0
    for _, name in ipairs(most == '' and {} or redis.call('SMEMBERS', root .. 'lists:' .. owner)) do
      if string.find(name, '^pending:') then
        number = number + redis.call('ZCARD', root .. 'list:' .. owner .. ':' .. name)
      end
    end
    return most ~= '' and number >= tonumber(most)
  end
  if full('*', in_all) then
    return {'full', 'in_all'}
  end
  if full(scope, of_scope) then
    return {'full', 'of_scope'}
  end
end
-- First of all what a full server refuses, so that it refuses all or nothing.
redis.call('HSET', task, 's', state .. ' ' .. nonce, unpack(ARGV, 16))
redis.call('PEXPIRE', task, ARGV[4])
if over and inflight then
  over.key = '-'
  redis.call('HSET', root .. 'task:' .. over_ref, 's', text_of(over))
elseif over then
  remove(over_ref, over)
end
keep_layout(ttl)
if key ~= '-' then
  redis.call('SET', root .. 'key:' .. key, ref, 'PX', ARGV[4])
end
enlist(scope, operation, status, created, ref, ttl)
local member = scope .. ' ' .. operation .. ' ' .. ref
if due ~= '-' then
  redis.call('ZADD', root .. 'due', due, member)
  keep(root .. 'due', ttl)
elseif expires ~= '-' then
  redis.call('ZADD', root .. 'expiring', expires, member)
  keep(root .. 'expiring', ttl)
end
return 1
