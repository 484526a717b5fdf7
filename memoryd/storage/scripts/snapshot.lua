#!lua flags=
-- ARGV: generation, owner, epoch, `snap:<name>`, id, attempt of the blob ('' for none), next, bytes
-- that the snapshot pins, the packed cut, most snapshots of a session. The cut was made in the
-- daemon: it is refused unless the session still stands where it was made. Sent again, it finds a
-- snapshot of its id.
local no = refusal(ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
local name = snapshot_key(ARGV[4])
local stored = redis.call('HMGET', name, 'id', 'created_ms')
if stored[1] and stored[1] ~= ARGV[5] then
  return {'EXISTS'}
end
if stored[1] then
  refresh()
  return {'OK', stored[2]}
end
local seen = redis.call('HMGET', META, 'blob_attempt', 'next', 'snapshots')
if (seen[1] or '') ~= ARGV[6] or seen[2] ~= ARGV[7] then
  return {'MOVED'}
end
if tonumber(seen[3] or '0') >= tonumber(ARGV[10]) then
  return {'TOO_MANY'}
end
local now = digits(now_ms())
redis.call('HSET', name, 'id', ARGV[5], 'generation', ARGV[1], 'next', ARGV[7], 'bytes', ARGV[8],
  'cut', ARGV[9], 'created_ms', now)
redis.call('HSET', META, ARGV[4], ARGV[1] .. ':' .. ARGV[6])
redis.call('HINCRBY', META, 'snapshots', 1)
if ARGV[6] ~= '' then
  redis.call('HINCRBY', META, 'pin:' .. ARGV[6], 1)
end
refresh()
return {'OK', now}
