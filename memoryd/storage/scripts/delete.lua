#!lua flags=allow-oom
-- ARGV: generation, owner, epoch, sent again; owner and epoch are '' for whoever deletes without
-- owning. Meta goes first: from then on nobody can write, whatever of the data is still there.
-- Sent again, a session of this generation that is gone was deleted by the first try; the marker
-- is there because WAIT counts only writes of its own connection.
local seen = redis.call('HMGET', META, 'generation', 'owner', 'epoch')
if seen[1] ~= ARGV[1] then
  if ARGV[4] == '1' then
    redis.call('SET', META .. ':deleted', '', 'PX', '1')
    return {'OK'}
  end
  if not seen[1] then
    return {'NOT_FOUND'}
  end
  return {'REPLACED', seen[1]}
end
if ARGV[2] ~= '' and (seen[2] ~= ARGV[2] or seen[3] ~= ARGV[3]) then
  return {'FENCED', seen[1], seen[2], seen[3]}
end
local keys = data_keys()
redis.call('UNLINK', META)
for _, key in ipairs(keys) do
  redis.call('UNLINK', key)
end
return {'OK'}
