-- The version of each of these tasks, nil where there is none.
local found = {}
for index, ref in ipairs(ARGV) do
  local state = redis.call('HGET', root .. 'task:' .. ref, 's')
  found[index] = state and string.match(state, '^%S+')
end
return found
