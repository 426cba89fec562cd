-- with: note
-- A page of a kind's notes: key, n, v of each.
local kind, due, after, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
-- due: those that were due by then, earliest first; "": all, in the order of their keys, from what comes after `after`.

local found = {}
while limit > 0 do
  local keys
  if due ~= '' then
    keys = redis.call('ZRANGEBYSCORE', root .. 'notes-due:' .. kind, '-inf', due, 'LIMIT', #found / 3, limit)
  else
    keys = redis.call('ZRANGEBYLEX', root .. 'notes:' .. kind, after == '' and '-' or '(' .. after, '+', 'LIMIT',
      #found / 3, limit)
  end
  if #keys == 0 then
    break
  end
  for _, key in ipairs(keys) do
    local note = redis.call('HMGET', root .. 'note:' .. kind .. ':' .. key, 'n', 'v')
    if note[2] then
      local count = #found
      found[count + 1], found[count + 2], found[count + 3] = key, note[1], note[2]
      limit = limit - 1
    else
      -- It expired by itself.
      delist_note(kind, key)
    end
  end
end
return found
