#!lua flags=
-- ARGV: new generation, generation to replace ('' makes a new session), its owner, its epoch,
-- model, next, tokens, text, writers, blob attempt ('' for none), offset, nbytes, parts, digest,
-- ttl_ms, archive, labels, bytes of the archive, (name, value)*. Puts a copied stream, its staged
-- blob and its staged archive in place in one step. What replaces a generation keeps the session's ttl, labels and snapshots, and has no
-- owner. Sent again, it finds its own generation.
local current = redis.call('HGET', META, 'generation')
if current ~= ARGV[1] then
  if ARGV[2] == '' and current then
    return {'EXISTS', current}
  end
  if ARGV[2] ~= '' then
    local no = refusal(ARGV[2], ARGV[3], ARGV[4])
    if no then
      return no
    end
  end
  local blob = blob_key(ARGV[1], ARGV[10])
  if ARGV[10] ~= '' and redis.call('HLEN', blob) ~= tonumber(ARGV[13]) then
    return {'INCOMPLETE'}
  end
  local archive = data_key('archive', ARGV[1])
  if ARGV[18] ~= '0' then
    local last = redis.call('XREVRANGE', archive, '+', '-', 'COUNT', 1)[1]
    if not last or last[1] ~= ARGV[18] .. '-0' then
      return {'INCOMPLETE'}
    end
    redis.call('PERSIST', archive)
  end
  if current then
    local attempt = redis.call('HGET', META, 'blob_attempt')
    redis.call('UNLINK', data_key('journal', current))
    if not generation_kept(current) then
      redis.call('UNLINK', data_key('archive', current))
    end
    if attempt and not is_pinned(attempt) then
      redis.call('UNLINK', blob_key(current, attempt))
    end
    for _, field in ipairs(redis.call('HKEYS', META)) do
      if string.sub(field, 1, 5) == 'chat:' then
        redis.call('HDEL', META, field)
      end
    end
    redis.call('HDEL', META, 'blob_attempt', 'blob_offset', 'blob_nbytes', 'blob_parts',
      'blob_digest')
    redis.call('HINCRBY', META, 'epoch', 1)
  else
    redis.call('HSET', META, 'epoch', '0', 'ttl_ms', ARGV[15], 'archive', ARGV[16],
      'labels', ARGV[17], 'created_ms', digits(now_ms()))
  end
  redis.call('HSET', META, 'generation', ARGV[1], 'owner', '', 'op', '0', 'model', ARGV[5],
    'next', ARGV[6], 'text', ARGV[8], 'writers', ARGV[9], 'archive_next', ARGV[18])
  if #ARGV[7] > 0 then
    redis.call('XADD', data_key('journal', ARGV[1]), ARGV[6] .. '-0', 't', ARGV[7])
  end
  if ARGV[10] ~= '' then
    redis.call('PERSIST', blob)
    redis.call('HSET', META, 'blob_attempt', ARGV[10], 'blob_offset', ARGV[11],
      'blob_nbytes', ARGV[12], 'blob_parts', ARGV[13], 'blob_digest', ARGV[14])
  end
  for i = 19, #ARGV, 2 do
    redis.call('HSET', META, ARGV[i], ARGV[i + 1])
  end
end
refresh()
return {'OK', redis.call('HGETALL', META)}
