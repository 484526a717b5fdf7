-- Shared by all session scripts: it is put between a script's flags and its body.
-- KEYS[1] is the session's meta hash; its other keys are built from that name and the generation,
-- so they share its hash tag and with it the cluster slot.

local META = KEYS[1]

local function data_key(kind, generation)
  return string.sub(META, 1, -#'meta' - 1) .. kind .. ':' .. generation
end

local function blob_key(generation, attempt)
  return data_key('blob', generation) .. ':' .. attempt
end

-- The answer to somebody who may not write, or nil.
local function refusal(generation, owner, epoch)
  local seen = redis.call('HMGET', META, 'generation', 'owner', 'epoch')
  if not seen[1] then
    return {'NOT_FOUND'}
  end
  if seen[1] ~= generation or seen[2] ~= owner or seen[3] ~= epoch then
    return {'FENCED', seen[1], seen[2], seen[3]}
  end
  return nil
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- '%.0f' because a Lua number of 13 digits prints as 1.7e+12 otherwise.
local function digits(number)
  return string.format('%.0f', number)
end

-- Marks use, which also makes every OK a replicated write: WAIT counts nothing else. All keys of
-- the session get one time of death, so that none outlives another.
local function refresh()
  local now = now_ms()
  redis.call('HSET', META, 'updated_ms', digits(now))
  local seen = redis.call('HMGET', META, 'ttl_ms', 'generation', 'blob_attempt')
  local ttl = tonumber(seen[1])
  if ttl > 0 then
    local at = digits(now + ttl)
    redis.call('PEXPIREAT', META, at)
    redis.call('PEXPIREAT', data_key('journal', seen[2]), at)
    if seen[3] then
      redis.call('PEXPIREAT', blob_key(seen[2], seen[3]), at)
    end
  end
end
