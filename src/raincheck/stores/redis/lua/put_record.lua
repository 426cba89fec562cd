-- with: record
-- Write a record. 1: it is written; 0: the stored one is not of the version before.
local late_at, nonce, version, before, kind, key, due, expires, value =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]

local place = root .. 'record:' .. kind .. ':' .. key
local record = read_record(place)
if wrote(record, nonce) then
  return 1
end
if record.version ~= before then
  return 0
end
local refusal = late(late_at) or foreign()
if refusal then
  return refusal
end
record.version = version
write_record(place, record, kind, key, due, expires, value, nonce)
return 1
