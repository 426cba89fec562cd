-- with: record
-- A page of a kind's records: key, n, v of each.
local kind, due, after, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
-- due: those that were due by then, earliest first; "": all, in the order of their keys, from what comes after `after`.

local found = {}
while limit > 0 do
  local keys
  if due ~= '' then
    keys = redis.call('ZRANGEBYSCORE', root .. 'records-due:' .. kind, '-inf', due, 'LIMIT', #found / 3, limit)
  else
    keys = redis.call('ZRANGEBYLEX', root .. 'records:' .. kind, after == '' and '-' or '(' .. after, '+', 'LIMIT',
      #found / 3, limit)
  end
  if #keys == 0 then
    break
  end
  for _, key in ipairs(keys) do
    local record = redis.call('HMGET', root .. 'record:' .. kind .. ':' .. key, 'n', 'v')
    if record[2] then
      local count = #found
      found[count + 1], found[count + 2], found[count + 3] = key, record[1], record[2]
      limit = limit - 1
    else
      -- It expired by itself.
      delist_record(kind, key)
    end
  end
end
return found
