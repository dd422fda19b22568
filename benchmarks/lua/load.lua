-- Requests for wrk: random keys, values of one size, for the appliance or for etcd's JSON gateway.
-- Arguments: target, kind, keys, stride, value_bytes, batch, count, token. Keys are numbered; one in `stride` of them
-- is drawn from. With a count, the load ends after that many requests and says DONE.
-- Requests are put together as text: wrk.format would cost more than the servers' own parsing does. Numbers in keys
-- have nine digits at an offset of six, so that their Base64 is three look-ups and both sides' requests cost the same.
local b64chars = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/'

local function base64(data)
  local out = {}
  for i = 1, #data, 3 do
    local a, b, c = data:byte(i, i + 2)
    local n = a * 65536 + (b or 0) * 256 + (c or 0)
    out[#out + 1] = b64chars:sub(math.floor(n / 262144) + 1, math.floor(n / 262144) + 1)
      .. b64chars:sub(math.floor(n / 4096) % 64 + 1, math.floor(n / 4096) % 64 + 1)
      .. (b and b64chars:sub(math.floor(n / 64) % 64 + 1, math.floor(n / 64) % 64 + 1) or '=')
      .. (c and b64chars:sub(n % 64 + 1, n % 64 + 1) or '=')
  end
  return table.concat(out)
end

local target, kind, keys, stride, value_bytes, batch, count, token
local put_of, get_of, batch_of
local sent = 0

local function head(bytes) -- what stands behind a request's path
  return ' HTTP/1.1\r\nHost: ' .. wrk.headers['Host'] .. '\r\nX-API-Key: ' .. token
    .. (bytes and '\r\nContent-Type: application/json\r\nContent-Length: ' .. bytes or '') .. '\r\n\r\n'
end

function init(args)
  target, kind, keys, stride, value_bytes = args[1], args[2], tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
  batch, count, token = tonumber(args[6]), tonumber(args[7]), args[8]
  math.randomseed(os.time())
  local triples = {} -- what three digits look like in a key
  for i = 0, 999 do
    local digits = string.format('%03d', i)
    triples[i] = target == 'etcd' and base64(digits) or digits
  end
  local prefix = target == 'etcd' and base64('bench/') or 'bench/'
  local floor, random = math.floor, math.random
  local function key_at(n)
    return prefix .. triples[floor(n / 1000000)] .. triples[floor(n / 1000) % 1000] .. triples[n % 1000]
  end
  local function key() return key_at(random(0, keys - 1) * stride) end
  local function keys_of_batch() -- all different, as etcd asks: 7919 is a prime that divides no number of keys
    local first, out = random(0, keys - 1), {}
    for i = 1, batch do out[i] = key_at((first + i * 7919) % keys * stride) end
    return out
  end
  local value = string.rep('v', value_bytes)
  if target == 'ours' then
    local before = 'PUT /kv/'
    local after = head(value_bytes) .. value
    put_of = function() return before .. key() .. after end
    local query = kind == 'stale' and '?consistency=stale' or ''
    local get_after = query .. head()
    get_of = function() return 'GET /kv/' .. key() .. get_after end
    local between = '","value":"' .. value .. '"},{"op":"put","key":"'
    batch_of = function()
      local body = '{"operations":[{"op":"put","key":"' .. table.concat(keys_of_batch(), between)
        .. '","value":"' .. value .. '"}]}'
      return 'POST /batch' .. head(#body) .. body
    end
  else
    local value64 = base64(value)
    local put_open, put_close = '{"key":"', '","value":"' .. value64 .. '"}'
    local put_head = 'POST /v3/kv/put' .. head(#put_open + 20 + #put_close) .. put_open
    put_of = function() return put_head .. key() .. put_close end
    local get_close = kind == 'stale' and '","serializable":true}' or '"}'
    local get_head = 'POST /v3/kv/range' .. head(8 + 20 + #get_close) .. '{"key":"'
    get_of = function() return get_head .. key() .. get_close end
    local between = '","value":"' .. value64 .. '"}},{"request_put":{"key":"'
    batch_of = function()
      local body = '{"success":[{"request_put":{"key":"' .. table.concat(keys_of_batch(), between)
        .. '","value":"' .. value64 .. '"}}]}'
      return 'POST /v3/kv/txn' .. head(#body) .. body
    end
  end
end

function request()
  sent = sent + 1
  if sent == count then
    io.write('DONE\n')
    io.flush()
    wrk.thread:stop()
  end
  if kind == 'put' then return put_of() end
  if kind == 'batch' then return batch_of() end
  if kind == 'mix' and math.random(1, 10) == 1 then return put_of() end -- nine reads to one write
  return get_of()
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%.6f,"status_errors":%d,"socket_errors":%d,'
      .. '"p50_ms":%.3f,"p99_ms":%.3f,"p999_ms":%.3f,"max_ms":%.3f}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
