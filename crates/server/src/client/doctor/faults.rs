//! Everything that the doctor can find: codes that stay, what each means, and what mends it.
//! Must not know how it is found. docs/doctor.md shows this table.

/// Who has to change something, and what.
pub(super) type Mend = (&'static str, &'static str);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Users get less than they should: exit status 1.
    Problem,
    /// Worth knowing, and nothing is broken.
    Note,
}

macro_rules! faults {
    ($($name:ident $code:literal $weight:ident $meaning:literal [$($place:literal: $how:literal,)+])+) => {
        /// A kind of finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Fault { $($name,)+ }

        impl Fault {
            /// All of them.
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable name.
            pub(super) fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            pub(super) fn weight(self) -> Weight {
                match self { $(Self::$name => Weight::$weight,)+ }
            }

            /// What is seen where it is there.
            #[cfg(test)]
            pub(super) fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)+ }
            }

            /// What mends it, by where that is.
            pub(super) fn mends(self) -> &'static [Mend] {
                match self { $(Self::$name => &[$(($place, $how),)+],)+ }
            }
        }
    };
}

faults! {
    UpgradeStripped "upgrade_stripped" Problem
    "The WebSocket handshake reaches the server without `Upgrade` or `Connection`." [
        "nginx": "`proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";`",
        "HAProxy": "take out `http-request del-header Upgrade`, `del-header Connection` and the like; by itself it passes both on",
    ]
    UpgradeRefused "upgrade_refused" Problem
    "Something before the server answers the WebSocket handshake, and not as a WebSocket does." [
        "nginx": "no `deny`, `return` or `limit_except` for `/v1/ws` and `/v1/channels/`",
        "HAProxy": "no `http-request deny` for `{ hdr(Upgrade) -i websocket }`",
    ]
    SubprotocolLost "subprotocol_lost" Problem
    "The WebSocket opens, but `tidewire.v1` was offered and is not selected; browsers then close it, and tokens among the subprotocols are lost." [
        "nginx": "no `proxy_set_header Sec-WebSocket-Protocol` and no `proxy_hide_header Sec-WebSocket-Protocol`",
        "HAProxy": "no `del-header Sec-WebSocket-Protocol`, in requests and responses",
    ]
    HttpVersion "http_version" Problem
    "A part of the path speaks HTTP/1.0, over which there is no WebSocket." [
        "nginx": "`proxy_http_version 1.1;`: most versions speak 1.0 by default",
        "HAProxy": "it speaks 1.1 by itself: look at what is before and behind it",
    ]
    ResponseBuffered "response_buffered" Problem
    "Events of a stream are held back until more comes or the response ends." [
        "nginx": "`proxy_buffering off;`, or no `proxy_ignore_headers X-Accel-Buffering;`, with which the server switches it off itself",
        "HAProxy": "no `http-response wait-for-body`",
    ]
    IdleTimeoutShort "idle_timeout_short" Problem
    "A connection on which nothing happens is cut before the next heartbeat, or a long poll before its time." [
        "nginx": "`proxy_read_timeout 90s;`: longer than heartbeats are apart, and than long polls wait",
        "HAProxy": "`timeout tunnel 1h` (WebSocket and SSE), `timeout server 90s` and `timeout client 90s` (long polls, and the others without `timeout tunnel`)",
        "Tidewire": "`limits.heartbeat_ms` shorter than the timeout; a long poll has no heartbeat: its `wait` must be shorter",
    ]
    StreamCut "stream_cut" Problem
    "A connection is cut although heartbeats came: how long it may last is bounded." [
        "nginx": "`worker_shutdown_timeout` ends connections after a reload",
        "HAProxy": "`hard-stop-after` ends connections after a reload",
        "load balancers": "the longest duration of a request or connection, which is not the idle timeout",
    ]
    ConnectionLimit "connection_limit" Problem
    "Requests that are held at the same time are refused, or wait for each other." [
        "nginx": "a higher `limit_conn`, `limit_req` or `worker_connections`",
        "HAProxy": "a higher `maxconn` (global, frontend and server), and no `http-request deny` by `sc_conn_cur`",
        "Tidewire": "`limits.connections`, `limits.connections_per_user`; `limits.connections_per_ip` with `proxies.trusted`, or all users share the proxy's",
    ]
    CompressedStream "compressed_stream" Problem
    "The proxy compresses event streams: it holds back what the compressor has not finished, and memory for each." [
        "nginx": "`gzip_types` without `text/event-stream` and `*`",
        "HAProxy": "`compression type` that names types, and not `text/event-stream`",
    ]
    CorsMissing "cors_missing" Problem
    "A page may use the server, but the answer does not say so to the browser, which hides it from the page." [
        "nginx": "no `proxy_hide_header Access-Control-…`, and no answer of its own to `OPTIONS`",
        "HAProxy": "no `http-response del-header Access-Control-…`",
    ]
    CorsWrong "cors_wrong" Problem
    "The answer says something of pages that no browser takes, or that lets in every page." [
        "nginx": "no `add_header Access-Control-…`: the server says it itself, from `origins`",
        "HAProxy": "no `http-response set-header Access-Control-…` and `add-header Access-Control-…`",
    ]
    OriginRefused "origin_refused" Problem
    "The page's origin is not allowed." [
        "Tidewire": "name it in `origins`: scheme, host and port",
        "nginx": "`proxy_set_header Host $http_host;` where the page comes from the server's own address",
        "HAProxy": "no `http-request set-header Host` where the page comes from the server's own address",
    ]
    OriginLost "origin_lost" Problem
    "A page that nobody can have allowed is served: `Origin` does not arrive, so that `origins` protects from nothing." [
        "nginx": "no `proxy_set_header Origin`",
        "HAProxy": "no `http-request del-header Origin` and `set-header Origin`",
    ]
    CookiesDropped "cookies_dropped" Problem
    "A request with the cookie is answered as one without." [
        "nginx": "no `proxy_set_header Cookie`",
        "HAProxy": "no `http-request del-header Cookie`",
        "Tidewire": "`auth.cookie` must be the cookie's name",
    ]
    AuthorizationLost "authorization_lost" Problem
    "The token is good among the subprotocols of a WebSocket, and in `Authorization` it does not arrive." [
        "nginx": "no `proxy_set_header Authorization`",
        "HAProxy": "no `http-request del-header Authorization`, and no `http-request auth` of its own",
    ]
    ClockWrong "clock_wrong" Problem
    "Two clocks differ: tokens are refused as expired or not valid yet, and times of events are wrong." [
        "machines": "let NTP set the clocks: `timedatectl`, `chronyc tracking`",
        "Tidewire": "`auth.leeway_seconds` is how much tokens may be off",
    ]
    StreamCached "stream_cached" Problem
    "An answer is an old one out of a cache, against its `Cache-Control`." [
        "nginx": "`proxy_cache off;` for `/v1/`, or no `proxy_ignore_headers Cache-Control`",
        "HAProxy": "no `http-request cache-use` for `/v1/`",
    ]
    LastEventIdLost "last_event_id_lost" Problem
    "An event stream that resumes begins anew: what came in between is lost." [
        "nginx": "no `proxy_set_header Last-Event-ID`",
        "HAProxy": "no `http-request del-header Last-Event-ID`",
    ]
    Refused "refused" Problem
    "The server itself says no." [
        "Tidewire": "a token with the rights (`--token-file`), a channel that is open to it (`--channel`), or other `rights`",
    ]
    EventsMissing "events_missing" Problem
    "An event is in the log, and does not come; why was not found out." [
        "path": "run the doctor at the server's own address: if all is well there, something in between is the cause",
    ]
    TransportFailed "transport_failed" Problem
    "There is no proper answer, and it was not found out why." [
        "path": "run the doctor at the server's own address: if all is well there, something in between is the cause",
    ]
    OnlyHttp1 "only_http_1" Note
    "Over TLS, browsers get HTTP/1.1 and open six connections to a host at most: more tabs with event streams or long polls wait for each other." [
        "nginx": "`listen 443 ssl http2;`",
        "HAProxy": "`bind :443 ssl crt … alpn h2,http/1.1`",
    ]
    CompressedAnswer "compressed_answer" Note
    "The proxy compresses the answers to polls, which does no harm." [
        "nginx": "nothing needs to be; `gzip_types` says what is compressed",
        "HAProxy": "nothing needs to be; `compression type` says what is compressed",
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of docs/doctor.md, as it must be there.
    fn page() -> String {
        let mut page = String::new();
        for fault in Fault::ALL {
            page.push_str(&format!("**`{}`**: {}\n", fault.code(), fault.meaning()));
            for (place, how) in fault.mends() {
                page.push_str(&format!("- {place}: {how}\n"));
            }
            page.push('\n');
        }
        page.trim_end().to_owned()
    }

    #[test]
    fn docs_doctor_md_has_every_code_and_what_mends_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/doctor.md");
        let text = std::fs::read_to_string(path).expect("docs/doctor.md");
        let page = page();
        assert!(text.contains(&page), "{path} must have this, word for word:\n\n{page}");
    }

    #[test]
    fn codes_are_different_words() {
        let mut codes: Vec<_> = Fault::ALL.iter().map(|fault| fault.code()).collect();
        assert!(codes.iter().all(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b"_1".contains(&b))));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Fault::ALL.len());
    }
}
