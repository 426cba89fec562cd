-- How many tasks there are in each status: status, number and so on.
local counts, found = {}, {}
for _, name in ipairs(redis.call('SMEMBERS', root .. 'lists:*')) do
  local status = string.match(name, '^[^:]+')
  counts[status] = (counts[status] or 0) + redis.call('ZCARD', root .. 'list:*:' .. name)
end
for status, number in pairs(counts) do
  found[#found + 1] = status
  found[#found + 1] = number
end
return found
