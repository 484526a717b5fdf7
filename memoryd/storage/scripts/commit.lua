#!lua flags=allow-oom
-- ARGV: generation, owner, epoch, attempt, offset, nbytes, parts, digest, first id after the
-- offset. Moves the pointer to a complete blob and frees what that blob replaces: the blob before
-- it and the journal that it covers. Allowed beyond maxmemory, for it is what frees memory. A blob
-- that is refused is freed too; sent again, an earlier try may have made it the checkpoint or a
-- snapshot's.
local function refuse(answer)
  if redis.call('HGET', META, 'blob_attempt') ~= ARGV[4] and not is_pinned(ARGV[4]) then
    redis.call('UNLINK', blob_key(ARGV[1], ARGV[4]))
  end
  return answer
end

local no = refusal(ARGV[1], ARGV[2], ARGV[3])
if no then
  return refuse(no)
end
local seen = redis.call('HMGET', META, 'blob_attempt', 'blob_offset', 'next')
if seen[1] ~= ARGV[4] then
  if seen[1] and tonumber(ARGV[5]) <= tonumber(seen[2]) then
    return refuse({'STALE', seen[2]})
  end
  if tonumber(ARGV[5]) > tonumber(seen[3]) then
    return refuse({'GAP', seen[3]})
  end
  local blob = blob_key(ARGV[1], ARGV[4])
  if redis.call('HLEN', blob) ~= tonumber(ARGV[7]) then
    return refuse({'INCOMPLETE'})
  end
  redis.call('PERSIST', blob)
  redis.call('HSET', META, 'blob_attempt', ARGV[4], 'blob_offset', ARGV[5],
    'blob_nbytes', ARGV[6], 'blob_parts', ARGV[7], 'blob_digest', ARGV[8])
  -- A snapshot pins the blob it names, and then outlives the pointer's move.
  if seen[1] and not is_pinned(seen[1]) then
    redis.call('UNLINK', blob_key(ARGV[1], seen[1]))
  end
  redis.call('XTRIM', data_key('journal', ARGV[1]), 'MINID', '=', ARGV[9])
end
refresh()
return {'OK'}
