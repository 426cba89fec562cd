-- with: record
-- Write the next version of a task. 1: it is written; 0: the stored one is another version, has another lease, or is gone.
local late_at, news, nonce, ttl, ref, before, seen_lease, length, status, due, expires, state, gone, records =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11],
  ARGV[12], ARGV[13], tonumber(ARGV[14])
-- length: of the lease, counted from the server's now; "": it ends as the state says.
-- gone: the large parts that there are no more, a letter each. records: how many are written with it; then kind, key,
-- due, expires and value of each. Then fields of the hash, each with its value.
local first = 15 + 5 * records

tell(news)
local task = root .. 'task:' .. ref
local there = redis.call('HGET', task, 's')
if not there then
  return 0
end
local old = parse(there)
if old.version ~= before then
  return wrote(old, nonce) and 1 or 0
end
if seen_lease ~= '' and old.lease ~= seen_lease then
  return 0
end
local refusal = late(late_at) or foreign()
if refusal then
  return refusal
end
if length ~= '' then
  local lease = lease_end(length)
  state = string.gsub(state, '^(%S+ %S+ %S+) %S+', '%1 ' .. lease)
  local deadline = string.match(old.fixed, '^%S+')
  due = tonumber(deadline) < tonumber(lease) and deadline or lease
end
-- The insert's and the last few: others may have written since, before this one could ask again.
local nonces = old.nonces .. ',' .. nonce
local _, number = string.gsub(nonces, ',', ',')
if number >= NONCES then
  nonces = string.gsub(nonces, ',[^,]*', '', 1)
end
local fixed = table.concat({old.fixed, old.scope, old.operation, old.key}, ' ')
redis.call('HSET', task, 's', table.concat({state, fixed, nonces}, ' '), unpack(ARGV, first))
if gone ~= '' then
  redis.call('HDEL', task, string.match(gone, '(.)(.?)'))
end
for at = 15, first - 1, 5 do
  local place = root .. 'record:' .. ARGV[at] .. ':' .. ARGV[at + 1]
  local record = read_record(place)
  record.version = string.format('%.0f', record.version + 1)
  write_record(place, record, ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], nonce)
end
redis.call('PEXPIRE', task, ARGV[4])
keep_layout(ttl)
if old.key ~= '-' and redis.call('GET', root .. 'key:' .. old.key) == ref then
  redis.call('PEXPIRE', root .. 'key:' .. old.key, ARGV[4])
end
if status ~= old.status then
  delist(old.scope, old.operation, old.status, ref)
  enlist(old.scope, old.operation, status, string.match(old.fixed, '%S+$'), ref, ttl)
end
local member = old.scope .. ' ' .. old.operation .. ' ' .. ref
if due ~= '-' then
  redis.call('ZADD', root .. 'due', due, member)
  keep(root .. 'due', ttl)
else
  redis.call('ZREM', root .. 'due', member)
  if expires ~= '-' then
    redis.call('ZADD', root .. 'expiring', expires, member)
    keep(root .. 'expiring', ttl)
  end
end
return 1
