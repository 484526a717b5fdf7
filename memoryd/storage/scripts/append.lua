#!lua flags=
-- ARGV: generation, owner, epoch, op, expected next, new next, tokens, text, writers,
-- number of fields set, (name, value)*, name of a field deleted*.
-- Operations are numbered within an epoch. The last one sent again is answered with its result;
-- an older one is a ghost of a connection that was given up, and must not overwrite what followed.
local no = refusal(ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
local seen = redis.call('HMGET', META, 'op', 'next')
local last, op = tonumber(seen[1]), tonumber(ARGV[4])
if op < last then
  return {'GHOST', seen[1]}
end
if op == last then
  refresh()
  return {'OK', redis.call('HGET', META, 'op_result')}
end
if seen[2] ~= ARGV[5] then
  return {'GAP', seen[2]}
end
if #ARGV[7] > 0 then
  redis.call('XADD', data_key('journal', ARGV[1]), ARGV[6] .. '-0', 't', ARGV[7])
end
redis.call('HSET', META, 'op', ARGV[4], 'op_result', ARGV[6], 'next', ARGV[6],
  'text', ARGV[8], 'writers', ARGV[9])
local first_deleted = 11 + 2 * tonumber(ARGV[10])
for i = 11, first_deleted - 1, 2 do
  redis.call('HSET', META, ARGV[i], ARGV[i + 1])
end
for i = first_deleted, #ARGV do
  redis.call('HDEL', META, ARGV[i])
end
refresh()
return {'OK', ARGV[6]}
