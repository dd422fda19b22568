-- Requests for wrk: random keys, values of one size, for the appliance or for etcd's JSON gateway.
-- wrk.thread:get/set carry the arguments: target, kind, keys, value_bytes, batch, token.
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

local counter = 0
function setup(thread)
  counter = counter + 1
  thread:set('number', counter)
end

local key_of, put_of, get_of, batch_of

function init(args)
  target, kind, keys, value_bytes, batch, token = args[1], args[2], tonumber(args[3]), tonumber(args[4]), tonumber(args[5]), args[6]
  math.randomseed(number * 7919 + os.time())
  local value = string.rep('v', value_bytes)
  local headers = { ['Content-Type'] = 'application/json', ['X-API-Key'] = token }
  local function key() return string.format('bench/%07d', math.random(0, keys - 1)) end
  if target == 'ours' then
    put_of = function() return wrk.format('PUT', '/kv/' .. key(), headers, value) end
    get_of = function(query) return wrk.format('GET', '/kv/' .. key() .. query, headers) end
    batch_of = function()
      local operations = {}
      for i = 1, batch do
        operations[i] = '{"op":"put","key":"' .. key() .. string.format('-%d","value":"', i) .. value .. '"}'
      end
      return wrk.format('POST', '/batch', headers, '{"operations":[' .. table.concat(operations, ',') .. ']}')
    end
  else
    local value64 = base64(value)
    put_of = function()
      return wrk.format('POST', '/v3/kv/put', headers, '{"key":"' .. base64(key()) .. '","value":"' .. value64 .. '"}')
    end
    get_of = function(query)
      local serializable = query == '' and '' or ',"serializable":true'
      return wrk.format('POST', '/v3/kv/range', headers, '{"key":"' .. base64(key()) .. '"' .. serializable .. '}')
    end
    batch_of = function()
      local operations = {}
      for i = 1, batch do
        operations[i] = '{"request_put":{"key":"' .. base64(key() .. string.format('-%d', i)) .. '","value":"' .. value64 .. '"}}'
      end
      return wrk.format('POST', '/v3/kv/txn', headers, '{"success":[' .. table.concat(operations, ',') .. ']}')
    end
  end
end

function request()
  if kind == 'put' then return put_of() end
  if kind == 'get' then return get_of('') end
  if kind == 'stale' then return get_of('?consistency=stale') end
  if kind == 'batch' then return batch_of() end
  if math.random(1, 10) == 1 then return put_of() end -- mix: nine reads to one write
  return get_of('')
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"seconds":%.6f,"status_errors":%d,"socket_errors":%d,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f}\n',
    summary.requests, summary.duration / 1e6, e.status, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3))
end
