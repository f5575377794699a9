-- Requests of mixed framing for wrk, in an order that repeats: answers with Content-Length in three sizes, chunked and
-- until close, and a 404; requests without content, with Content-Length and chunked.
local requests, at = {}, 0

function init()
    local content = string.rep("x", 3000)
    local chunked = "400\r\n" .. content:sub(1, 1024) .. "\r\n1\r\ny\r\n0\r\n\r\n"
    local function get(path)
        return "GET " .. path .. " HTTP/1.1\r\nHost: soak.example\r\nAccept: */*\r\n\r\n"
    end
    local function post(framing, body)
        return "POST /small HTTP/1.1\r\nHost: soak.example\r\n" .. framing .. "\r\n\r\n" .. body
    end
    requests = {
        get("/small"), get("/small"), post("Content-Length: 3000", content), get("/16k"), get("/small"),
        post("Transfer-Encoding: chunked", chunked), get("/chunked"), get("/small"), get("/small"),
        get("/small"), get("/missing"), get("/close"), get("/small"), get("/64k"),
    }
end

function request()
    at = at % #requests + 1
    return requests[at]
end
