#!lua flags=no-writes
-- ARGV: generation, owner, epoch. The fence and the journal's end, before a query's first token.
local no = refusal(ARGV[1], ARGV[2], ARGV[3])
if no then
  return no
end
return {'OK', redis.call('HGET', META, 'next')}
