-- with: record
-- Remove a record. 1: it is gone; 0: the stored one is of another version.
local late_at, nonce, version, kind, key = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local place = root .. 'record:' .. kind .. ':' .. key
local record = read_record(place)
if wrote(record, nonce) then
  return 1
end
if record.version ~= version or version == '0' then
  return 0
end
local refusal = late(late_at) or foreign()
if refusal then
  return refusal
end
-- First of all what a full server permits.
redis.call('HDEL', place, 'v')
redis.call('HSET', place, 'n', '0 - -', 'w', with_nonce(record, nonce))
redis.call('PEXPIRE', place, GONE)
delist_record(kind, key)
return 1
