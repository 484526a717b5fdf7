#!lua flags=allow-oom
-- ARGV: `snap:<name>`, id, sent again. Needs no lease: a snapshot is not what an owner writes, and
-- its id keeps a late call from a snapshot that was taken later under the same name. The blob goes
-- with the last snapshot that pins it, unless it is the session's checkpoint.
local name = snapshot_key(ARGV[1])
if redis.call('HGET', name, 'id') ~= ARGV[2] or redis.call('HEXISTS', META, ARGV[1]) == 0 then
  if ARGV[3] ~= '1' then
    return {'NOT_FOUND'}
  end
  -- WAIT counts only writes of its own connection.
  redis.call('SET', META .. ':deleted', '', 'PX', '1')
  return {'OK'}
end
local generation, attempt = pinned_by(ARGV[1])
redis.call('UNLINK', name)
redis.call('HDEL', META, ARGV[1])
redis.call('HINCRBY', META, 'snapshots', -1)
if redis.call('HGET', META, 'generation') ~= generation and not generation_kept(generation) then
  redis.call('UNLINK', data_key('archive', generation))
end
if attempt ~= '' and redis.call('HINCRBY', META, 'pin:' .. attempt, -1) == 0 then
  redis.call('HDEL', META, 'pin:' .. attempt)
  if redis.call('HGET', META, 'blob_attempt') ~= attempt then
    redis.call('UNLINK', blob_key(generation, attempt))
  end
end
refresh()
return {'OK'}
