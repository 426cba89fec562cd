-- Several sorted sets read as one, in order; for scripts that name it.

-- By bytes: Lua's own comparison is the locale's.
local function less(a, b)
  for index = 1, math.min(#a, #b) do
    local x, y = string.byte(a, index), string.byte(b, index)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

local function load(range, command)
  local found = redis.call(command, range.key, range.rank, range.rank + range.size - 1, 'WITHSCORES')
  range.rank, range.size = range.rank + range.size, range.size * 2
  range.found, range.index = found, 1
  range.score = tonumber(found[2])
end

local function advance(range, command)
  range.index = range.index + 2
  if range.index < #range.found then
    range.score = tonumber(range.found[range.index + 1])
  elseif #range.found < range.size then
    range.score = nil
  else
    load(range, command)
  end
end

-- Call take(task_ref) for each member of the ranges ({key, rank}) until it was true `limit` times; where it is false the
-- member has no task any more and leaves its set. How many of the limit are left over.
local function merge(ranges, command, limit, take)
  local backwards = command == 'ZREVRANGE'
  local stale = {}
  for _, range in ipairs(ranges) do
    range.size = 8
    load(range, command)
  end
  while limit > 0 do
    local best
    for _, range in ipairs(ranges) do
      if range.score then
        if not best then
          best = range
        elseif range.score == best.score then
          if less(range.found[range.index], best.found[best.index]) ~= backwards then
            best = range
          end
        elseif (range.score < best.score) ~= backwards then
          best = range
        end
      end
    end
    if not best then
      break
    end
    local ref = best.found[best.index]
    if take(ref) then
      limit = limit - 1
    else
      stale[#stale + 1] = {best.key, ref}
    end
    advance(best, command)
  end
  for _, each in ipairs(stale) do
    redis.call('ZREM', each[1], each[2])
  end
  return limit
end
