#!lua flags=
-- ARGV: generation, owner, epoch, op, expected next, new next, tokens, text, writers, expected end
-- of the archive, bytes to archive, number of fields set, (name, value)*, name of a field deleted*.
-- Operations are numbered within an epoch. The last one sent again is answered with its result;
-- an older one is a ghost of a connection that was given up, and must not overwrite what followed.
local no = refusal(ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
local seen = redis.call('HMGET', META, 'op', 'next', 'archive_next')
local last, op = tonumber(seen[1]), tonumber(ARGV[4])
if op < last then
  return {'GHOST', seen[1]}
end
if op == last then
  refresh()
  return {'OK', redis.call('HGET', META, 'op_result')}
end
local archived = seen[3] or '0'
if seen[2] ~= ARGV[5] or archived ~= ARGV[10] then
  return {'GAP', seen[2], archived}
end
if #ARGV[7] > 0 then
  redis.call('XADD', data_key('journal', ARGV[1]), ARGV[6] .. '-0', 't', ARGV[7])
end
redis.call('HSET', META, 'op', ARGV[4], 'op_result', ARGV[6], 'next', ARGV[6],
  'text', ARGV[8], 'writers', ARGV[9])
if #ARGV[11] > 0 then
  local archive_end = digits(tonumber(archived) + #ARGV[11])
  redis.call('XADD', data_key('archive', ARGV[1]), archive_end .. '-0', 'a', ARGV[11])
  redis.call('HSET', META, 'archive_next', archive_end)
end
local first_deleted = 13 + 2 * tonumber(ARGV[12])
for i = 13, first_deleted - 1, 2 do
  redis.call('HSET', META, ARGV[i], ARGV[i + 1])
end
for i = first_deleted, #ARGV do
  redis.call('HDEL', META, ARGV[i])
end
refresh()
return {'OK', ARGV[6]}
