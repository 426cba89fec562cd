-- What every script of the Redis store shares; each of them begins with this text.
--
-- KEYS[1] is the root: the prefix with its hash tag. Every key is the root and a suffix, so all of them are in the
-- root's slot, and a script may reach those that it cannot know before it has read another one (the indexes of the task
-- that holds a key, the tasks that are overdue):
--
--   layout                             which layout this is
--   task:<task_ref>                    hash: s state, i fixed, r changing; if large, a arguments, q questions and
--                                      (a further line) checkpoint, o outcome
--   key:<digest>                       the task_ref that holds an idempotency key of a scope; =<digest> for a key that
--                                      a task holds only until it is terminal
--   list:<owner>:<status>:<operation>  sorted set of task_refs by created_at; the owner is a scope, or * for all of them
--   lists:<owner>                      set: which lists an owner has
--   turns:<operation>                  sorted set of the scopes that have a list of its pending tasks, all of one score: in
--                                      their own order
--   due, expiring                      sorted sets of "<scope> <operation> <task_ref>" by the time
--   record:<kind>:<key>                  hash: n "version due expires", v value, w the nonces of the last writes
--   records:<kind>                       sorted set of a kind's keys, all of one score: in their own order
--   records-due:<kind>                   sorted set of its keys by when they are due
--   records-expiring                     sorted set of "<kind> <key>" by the time
--   kinds                              set: of which kinds there are records
--
-- The operation stands for its name, and behind a ! for the priority where that is not 0.
--
-- The state: version status fence lease expires worker deadline created scope operation key nonces, "-" for none. Times
-- are microseconds and stay text: a Lua number has no room for every one of them.

local root = KEYS[1]
local LAYOUT = '{layout}'
local SLACK = 86400000
local NONCES = 6
local STATUSES = {'pending', 'processing', 'input_required', 'completed', 'failed', 'cancelled'}

-- Refuse what arrives when its caller was told already that it did not: a frozen server, a slow network.
local function late(milliseconds)
  local time = redis.call('TIME')
  if time[1] * 1000 + time[2] / 1000 > tonumber(milliseconds) then
    return {'late', time[1], time[2]}
  end
end

-- The end of a lease of that many microseconds, counted from the server's now. As text: what is added has room in a
-- number, what comes of it, printed whole, is exact for the next two centuries.
local function lease_end(length)
  local time = redis.call('TIME')
  return string.format('%.0f', time[1] * 1000000 + time[2] + length)
end

-- Before anything else: the message is of other writes too, which went well whatever becomes of this one.
local function tell(news)
  if news ~= '' then
    redis.call('PUBLISH', root .. 'changes', news)
  end
end

local function foreign()
  local layout = redis.call('GET', root .. 'layout')
  if layout and layout ~= LAYOUT then
    return {'layout', layout}
  end
end

local function parse(state)
  local found = {}
  found.version, found.status, found.fence, found.lease, found.expires, found.worker, found.fixed, found.scope,
    found.operation, found.key, found.nonces = string.match(
      state, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+ %S+) (%S+) (%S+) (%S+) (.*)$')
  return found
end

local function text_of(task)
  return table.concat({task.version, task.status, task.fence, task.lease, task.expires, task.worker, task.fixed,
    task.scope, task.operation, task.key, task.nonces}, ' ')
end

-- Whether this very write is one that the task (or record) had: sent again because its answer was lost.
local function wrote(task, nonce)
  return string.find(',' .. task.nonces .. ',', ',' .. nonce .. ',', 1, true) ~= nil
end

-- An index lives longer than anything in it; the slack spares most writes the renewal.
local function keep(key, ttl)
  if redis.call('PTTL', key) < ttl then
    redis.call('PEXPIRE', key, string.format('%.0f', ttl + SLACK))
    return true
  end
  return false
end

local function keep_layout(ttl)
  if redis.call('PTTL', root .. 'layout') < ttl then
    redis.call('SET', root .. 'layout', LAYOUT, 'PX', string.format('%.0f', ttl + SLACK))
  end
end

local function enlist(scope, operation, status, created, ref, ttl)
  for _, owner in ipairs({'*', scope}) do
    local name = status .. ':' .. operation
    local key = root .. 'list:' .. owner .. ':' .. name
    redis.call('ZADD', key, created, ref)
    if status == 'pending' and owner == scope then
      redis.call('ZADD', root .. 'turns:' .. operation, 0, scope)
      keep(root .. 'turns:' .. operation, ttl)
    end
    if keep(key, ttl) then
      local lists = root .. 'lists:' .. owner
      redis.call('SADD', lists, name)
      keep(lists, ttl + SLACK)
    end
  end
end

local function delist(scope, operation, status, ref)
  for _, owner in ipairs({'*', scope}) do
    local name = status .. ':' .. operation
    local key = root .. 'list:' .. owner .. ':' .. name
    if redis.call('ZREM', key, ref) == 1 and redis.call('EXISTS', key) == 0 then
      redis.call('SREM', root .. 'lists:' .. owner, name)
      if status == 'pending' and owner == scope then
        redis.call('ZREM', root .. 'turns:' .. operation, scope)
      end
    end
  end
end

local function forget_layout_of_nothing()
  if redis.call('EXISTS', root .. 'lists:*', root .. 'kinds') == 0 then
    redis.call('UNLINK', root .. 'layout')
  end
end

local function remove(ref, task)
  redis.call('UNLINK', root .. 'task:' .. ref)
  if task.key ~= '-' and redis.call('GET', root .. 'key:' .. task.key) == ref then
    redis.call('UNLINK', root .. 'key:' .. task.key)
  end
  delist(task.scope, task.operation, task.status, ref)
  local member = task.scope .. ' ' .. task.operation .. ' ' .. ref
  redis.call('ZREM', root .. 'due', member)
  redis.call('ZREM', root .. 'expiring', member)
  forget_layout_of_nothing()
end

local function ref_of(member)
  return string.match(member, '^%S+ %S+ (.*)$')
end

-- The task is gone without a word (its own expiry, nobody having run for so long): so are its places.
local function forget(member)
  local scope, operation, ref = string.match(member, '^(%S+) (%S+) (.*)$')
  for _, status in ipairs(STATUSES) do
    delist(scope, operation, status, ref)
  end
  redis.call('ZREM', root .. 'due', member)
  redis.call('ZREM', root .. 'expiring', member)
  forget_layout_of_nothing()
end
