-- with: note
-- Write a note. 1: it is written; 0: the stored one is not of the version before.
local late_at, nonce, version, before, kind, key, due, expires, value =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]

local place = root .. 'note:' .. kind .. ':' .. key
local note = read_note(place)
if wrote(note, nonce) then
  return 1
end
if note.version ~= before then
  return 0
end
local refusal = late(late_at) or foreign()
if refusal then
  return refusal
end
note.version = version
write_note(place, note, kind, key, due, expires, value, nonce)
return 1
