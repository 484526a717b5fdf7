#!lua flags=no-writes
-- The bytes that a session keeps: its checkpoint, the journal behind it, what stands beside the
-- journal, its archive, and its snapshots with each pinned blob and each older archive once. A
-- record that lacks a figure counts without it.
local seen = redis.call('HMGET', META, 'generation', 'blob_attempt', 'blob_nbytes', 'blob_offset',
  'next', 'archive_next')
if not seen[1] then
  return {'NOT_FOUND'}
end
local function number(text)
  return tonumber(text or '0') or 0
end
local bytes = number(seen[3]) + 4 * math.max(0, number(seen[5]) - number(seen[4])) + number(seen[6])
local counted = { [data_key('archive', seen[1])] = true }
if seen[2] then
  counted[seen[2]] = true
end
for _, field in ipairs(redis.call('HKEYS', META)) do
  if string.sub(field, 1, 5) == 'snap:' then
    local name = snapshot_key(field)
    local cut = redis.call('HSTRLEN', name, 'cut')
    bytes = bytes + cut
    local generation, attempt = pinned_by(field)
    local archive = generation and data_key('archive', generation)
    if archive and not counted[archive] then
      counted[archive] = true
      local last = redis.call('XREVRANGE', archive, '+', '-', 'COUNT', 1)[1]
      bytes = bytes + (last and number(string.match(last[1], '^%d+')) or 0)
    end
    if attempt and attempt ~= '' and not counted[attempt] then
      counted[attempt] = true
      bytes = bytes + math.max(0, number(redis.call('HGET', name, 'bytes')) - cut)
    end
  elseif string.sub(field, 1, 5) == 'chat:' or field == 'text' or field == 'writers' then
    bytes = bytes + redis.call('HSTRLEN', META, field)
  end
end
return {'OK', digits(bytes)}
