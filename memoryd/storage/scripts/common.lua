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

-- A snapshot is the hash `snap:<name>`. Meta has a field of the same name, which holds
-- `<generation>:<attempt>` of the blob that it pins (no attempt: none), a count of the snapshots,
-- and `pin:<attempt>` for every pinned blob, with the number of snapshots that pin it.
local function snapshot_key(field)
  return string.sub(META, 1, -#'meta' - 1) .. field
end

local function pinned_by(field)
  return string.match(redis.call('HGET', META, field), '^([^:]*):(.*)$')
end

-- Whether a snapshot names this generation, whose archive it then needs.
local function generation_kept(generation)
  for _, field in ipairs(redis.call('HKEYS', META)) do
    if string.sub(field, 1, 5) == 'snap:' and pinned_by(field) == generation then
      return true
    end
  end
  return false
end

local function is_pinned(attempt)
  return redis.call('HEXISTS', META, 'pin:' .. attempt) == 1
end

-- All keys of the session but meta; some may not exist.
local function data_keys()
  local seen = redis.call('HMGET', META, 'generation', 'blob_attempt', 'snapshots', 'archive')
  local keys = { data_key('journal', seen[1]) }
  if seen[4] == '1' then
    keys[#keys + 1] = data_key('archive', seen[1])
  end
  if seen[2] then
    keys[#keys + 1] = blob_key(seen[1], seen[2])
  end
  if seen[3] and seen[3] ~= '0' then
    for _, field in ipairs(redis.call('HKEYS', META)) do
      if string.sub(field, 1, 5) == 'snap:' then
        local generation, attempt = pinned_by(field)
        keys[#keys + 1] = snapshot_key(field)
        if seen[4] == '1' then
          keys[#keys + 1] = data_key('archive', generation)
        end
        if attempt ~= '' then
          keys[#keys + 1] = blob_key(generation, attempt)
        end
      end
    end
  end
  return keys
end

-- Marks use, which also makes every OK a replicated write: WAIT counts nothing else. All keys of
-- the session get one time of death, so that none outlives another.
local function refresh()
  local now = now_ms()
  redis.call('HSET', META, 'updated_ms', digits(now))
  local ttl = tonumber(redis.call('HGET', META, 'ttl_ms'))
  if ttl > 0 then
    local at = digits(now + ttl)
    redis.call('PEXPIREAT', META, at)
    for _, key in ipairs(data_keys()) do
      redis.call('PEXPIREAT', key, at)
    end
  end
end
