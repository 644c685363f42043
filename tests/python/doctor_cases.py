"""Paths to a server that are each broken in one way, and what the doctor must find on them.
Must not know how a path is started, nor how the doctor is run.
"""

from proxies import Relay, StaleStreams, haproxy, nginx

PAGE = "https://app.example.com"

SERVERS = {
    "plain": f'origins = ["{PAGE}"]\n',
    "strict": "",
    "open": 'origins = ["*"]\n',
    "beating": f'origins = ["{PAGE}"]\nlimits.heartbeat_ms = 500\n',
    "slow": "limits.heartbeat_ms = 2000\n",
    "crowded": "limits.connections_per_ip = 4\n",
}
AUTHENTICATED = """
origins = ["{page}"]
auth.cookie = "session"
[[auth.issuers]]
secret_file = "{directory}/secret"
"""

UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
HTTP_1_1 = "proxy_http_version 1.1;"
CACHE = """proxy_cache kept; proxy_cache_valid any 60s; proxy_ignore_headers Cache-Control;
    add_header X-Cache-Status $upstream_cache_status;"""
WEBSOCKETS = ["websocket", "websocket-subprotocol"]
STREAMS = ["websocket", "sse", "long-poll"]


def through_nginx(*lines, upgrade=UPGRADE, version=HTTP_1_1, http="", more=""):
    """A healthy location, but for what is given."""

    def start(directory, upstream):
        always = [f"proxy_pass http://{upstream};", "proxy_set_header Host $http_host;"]
        location = "\n".join([*always, version, upgrade, *lines])
        kept = f"proxy_cache_path {directory}/cache keys_zone=kept:1m; {http}"
        return nginx(directory, f"location / {{ {location} }}\n{more}", kept)

    return start


def through_haproxy(**sections):
    return lambda directory, upstream: haproxy(directory, upstream, **sections)


def directly(directory, upstream):
    return None


def cut_after(seconds):
    return lambda directory, upstream: Relay(*upstream.split(":"), seconds)


def in_http_1_0(directory, upstream):
    return Relay(*upstream.split(":"), 60, lambda data: data.replace(b"HTTP/1.1 2", b"HTTP/1.0 2"))


def with_stale_streams(key):
    return lambda directory, upstream: StaleStreams(*upstream.split(":"), key)


class Case:
    """A path, the server behind it, what the doctor is told, and what it must find: (code, transport)."""

    def __init__(self, path, *found, server="plain", arguments=("--origin", PAGE), idle=None):
        self.path, self.found, self.server = path, set(found), server
        self.arguments = [*arguments, *(["--idle", str(idle)] if idle else ["--quick"])]


def all_of(code, ways):
    return [(code, way) for way in ways]


CASES = {
    # Nothing is wrong.
    "direct": Case(directly, server="beating", idle=4),
    "nginx": Case(through_nginx(), server="beating", idle=4),
    "haproxy": Case(through_haproxy(), server="beating", idle=4),
    "nginx_http_cache": Case(through_nginx("proxy_cache kept;")),
    "open_to_all": Case(through_nginx(), server="open"),
    "nginx_cookie": Case(through_nginx(), server="authenticated", arguments=["--cookie", "session"]),
    "nginx_gzip_json": Case(
        through_nginx("gzip on; gzip_types application/json; gzip_proxied any; gzip_min_length 1;"),
        ("compressed_answer", "poll"),
    ),
    # nginx.
    "nginx_upgrade_stripped": Case(through_nginx(upgrade=""), *all_of("upgrade_stripped", WEBSOCKETS)),
    "nginx_upgrade_refused": Case(
        through_nginx(more="location = /v1/ws { return 403; }"), *all_of("upgrade_refused", WEBSOCKETS)
    ),
    "nginx_http_version": Case(through_nginx(version=""), *all_of("http_version", WEBSOCKETS)),
    "nginx_as_it_comes": Case(
        through_nginx(upgrade="", version="proxy_http_version 1.0;"),
        *all_of("http_version", WEBSOCKETS),
        *all_of("upgrade_stripped", WEBSOCKETS),
    ),
    "nginx_subprotocol": Case(
        through_nginx('proxy_set_header Sec-WebSocket-Protocol "";'), ("subprotocol_lost", "websocket-subprotocol")
    ),
    "nginx_buffered": Case(through_nginx("proxy_ignore_headers X-Accel-Buffering;"), ("response_buffered", "sse")),
    "nginx_idle": Case(through_nginx("proxy_read_timeout 2s;"), *all_of("idle_timeout_short", STREAMS), idle=4),
    "nginx_compressed": Case(
        through_nginx("gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 1;"),
        ("compressed_stream", "sse"),
    ),
    "nginx_cors_hidden": Case(
        through_nginx("proxy_hide_header Access-Control-Allow-Origin;"), ("cors_missing", "all")
    ),
    "nginx_cors_hidden_from_all": Case(
        through_nginx("proxy_hide_header Access-Control-Allow-Origin;"), ("cors_missing", "all"), server="open"
    ),
    "nginx_cors_preflight": Case(
        through_nginx("if ($request_method = OPTIONS) { return 405; }"), ("cors_missing", "all")
    ),
    "nginx_cors_twice": Case(through_nginx("add_header Access-Control-Allow-Origin *;"), ("cors_wrong", "all")),
    "nginx_cors_echo": Case(
        through_nginx('proxy_set_header Origin ""; add_header Access-Control-Allow-Origin $http_origin;'),
        ("cors_wrong", "all"),
    ),
    "nginx_origin_lost": Case(through_nginx('proxy_set_header Origin "";'), ("origin_lost", "all")),
    "origin_refused": Case(
        through_nginx(), ("origin_refused", "all"), ("origin_refused", "websocket"), server="strict"
    ),
    "nginx_cookie_dropped": Case(
        through_nginx('proxy_set_header Cookie "";'),
        ("cookies_dropped", "all"),
        server="authenticated",
        arguments=["--cookie", "session"],
    ),
    "nginx_authorization_lost": Case(
        through_nginx('proxy_set_header Authorization "";'),
        ("authorization_lost", "all"),
        server="authenticated",
        arguments=[],
    ),
    "nginx_last_event_id": Case(through_nginx('proxy_set_header Last-Event-ID "";'), ("last_event_id_lost", "sse")),
    "nginx_cached": Case(through_nginx(CACHE), *all_of("stream_cached", ["poll", "long-poll"])),
    "nginx_one_connection": Case(
        through_nginx("limit_conn held 1;", http="limit_conn_zone $binary_remote_addr zone=held:1m;"),
        ("connection_limit", "all"),
    ),
    "nginx_four_connections": Case(
        through_nginx("limit_conn held 4;", http="limit_conn_zone $binary_remote_addr zone=held:1m;"),
        ("connection_limit", "all"),
    ),
    # HAProxy.
    "haproxy_upgrade_stripped": Case(
        through_haproxy(frontend="http-request del-header Upgrade"), *all_of("upgrade_stripped", WEBSOCKETS)
    ),
    "haproxy_upgrade_refused": Case(
        through_haproxy(frontend="http-request deny if { hdr(Upgrade) -i websocket }"),
        *all_of("upgrade_refused", WEBSOCKETS),
    ),
    "haproxy_buffered": Case(
        through_haproxy(
            backend="http-response wait-for-body time 60s at-least 12k if { res.hdr(Content-Type) text/event-stream }"
        ),
        ("response_buffered", "sse"),
    ),
    "haproxy_idle_tunnel": Case(
        through_haproxy(defaults="timeout tunnel 2s"), *all_of("idle_timeout_short", ["websocket", "sse"]), idle=4
    ),
    "haproxy_idle_server": Case(
        through_haproxy(defaults="timeout server 2s"), ("idle_timeout_short", "long-poll"), idle=4
    ),
    "haproxy_gzip_json": Case(
        through_haproxy(backend="compression algo gzip\n    compression type application/json"),
        ("compressed_answer", "poll"),
    ),
    "haproxy_cors_hidden": Case(
        through_haproxy(backend="http-response del-header Access-Control-Allow-Origin"), ("cors_missing", "all")
    ),
    "haproxy_origin_lost": Case(through_haproxy(frontend="http-request del-header Origin"), ("origin_lost", "all")),
    "haproxy_cookie_dropped": Case(
        through_haproxy(frontend="http-request del-header Cookie"),
        ("cookies_dropped", "all"),
        server="authenticated",
        arguments=["--cookie", "session"],
    ),
    "haproxy_last_event_id": Case(
        through_haproxy(frontend="http-request del-header Last-Event-ID"), ("last_event_id_lost", "sse")
    ),
    "haproxy_queue": Case(through_haproxy(server="maxconn 3"), ("connection_limit", "all")),
    "haproxy_date": Case(
        through_haproxy(backend='http-response set-header Date "Mon, 23 Nov 2020 05:14:04 GMT"'),
        ("clock_wrong", "all"),
    ),
    "haproxy_cached": Case(
        through_haproxy(
            sections="cache kept\n    total-max-size 4\n    max-age 60",
            backend="""http-request cache-use kept
    http-response set-header Cache-Control max-age=60
    http-response del-header Vary
    http-response cache-store kept""",
        ),
        *all_of("stream_cached", ["poll", "long-poll"]),
        arguments=[],
    ),
    # What no proxy does.
    "own_limit": Case(directly, ("connection_limit", "all"), server="crowded", arguments=[]),
    "server_clock": Case(directly, ("clock_wrong", "all"), server="ahead"),
    "no_rights": Case(
        directly,
        *all_of("refused", ["all", "poll", "sse", *WEBSOCKETS]),
        server="authenticated",
        arguments=["--token-file", "/dev/null"],
    ),
    "haproxy_swallowed": Case(
        through_haproxy(
            tuning="tune.bufsize 4000000",
            backend="http-response wait-for-body time 60s at-least 3m if { res.hdr(Content-Type) text/event-stream }",
        ),
        ("events_missing", "sse"),
    ),
    "nginx_compressed_and_buffered": Case(
        through_nginx(
            "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 1;",
            "proxy_ignore_headers X-Accel-Buffering;",
        ),
        ("response_buffered", "sse"),
    ),
    "nginx_failing_streams": Case(
        through_nginx("if ($http_accept = text/event-stream) { return 500; }"), ("transport_failed", "sse")
    ),
    "old_answers": Case(in_http_1_0, ("http_version", "all"), arguments=[]),
    "stale_streams": Case(with_stale_streams(lambda request: request.split(b"\r\n")[0]), ("stream_cached", "sse")),
    "stale_streams_by_header": Case(with_stale_streams(bytes), ("stream_cached", "sse")),
    "short_lives": Case(
        cut_after(2.7),
        *all_of("stream_cut", ["websocket", "sse"]),
        ("idle_timeout_short", "long-poll"),
        server="slow",
        arguments=[],
        idle=4,
    ),
}
NOTES = {"compressed_answer", "only_http_1"}
