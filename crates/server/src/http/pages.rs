//! The demo page and the admin page, embedded in the binary. Must not know anything else of the server.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A file of the page.
pub(crate) struct Page {
    pub(crate) content_type: &'static str,
    pub(crate) body: &'static [u8],
}

/// What the page may do: load its own files and speak to its own server.
pub(crate) const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// What the admin page may do: the same, and nothing that is not named.
pub(crate) const ADMIN_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

macro_rules! pages {
    ($find:ident, $($path:literal => $file:literal, $content_type:literal;)*) => {
        /// The page at a path.
        pub(crate) fn $find(path: &str) -> Option<Page> {
            match path {
                $($path => Some(Page {
                    content_type: $content_type,
                    body: include_bytes!(concat!("../../../../web/", $file)),
                }),)*
                _ => None,
            }
        }
    };
}

pages! { find,
    "/backoff.js" => "backoff.js", "text/javascript; charset=utf-8";
    "/clock.js" => "clock.js", "text/javascript; charset=utf-8";
    "/column-view.js" => "column-view.js", "text/javascript; charset=utf-8";
    "/column.js" => "column.js", "text/javascript; charset=utf-8";
    "/comparison.js" => "comparison.js", "text/javascript; charset=utf-8";
    "/demo.css" => "demo.css", "text/css; charset=utf-8";
    "/demo.js" => "demo.js", "text/javascript; charset=utf-8";
    "/event-source.js" => "event-source.js", "text/javascript; charset=utf-8";
    "/favicon.svg" => "favicon.svg", "image/svg+xml";
    "/format.js" => "format.js", "text/javascript; charset=utf-8";
    "/host-view.js" => "host-view.js", "text/javascript; charset=utf-8";
    "/http.js" => "http.js", "text/javascript; charset=utf-8";
    "/" => "index.html", "text/html; charset=utf-8";
    "/long-polling.js" => "long-polling.js", "text/javascript; charset=utf-8";
    "/polling.js" => "polling.js", "text/javascript; charset=utf-8";
    "/publish.js" => "publish.js", "text/javascript; charset=utf-8";
    "/short-polling.js" => "short-polling.js", "text/javascript; charset=utf-8";
    "/snippets.js" => "snippets.js", "text/javascript; charset=utf-8";
    "/statistics.js" => "statistics.js", "text/javascript; charset=utf-8";
    "/strip.js" => "strip.js", "text/javascript; charset=utf-8";
    "/web-socket.js" => "web-socket.js", "text/javascript; charset=utf-8";
    "/wire-size.js" => "wire-size.js", "text/javascript; charset=utf-8";
}

pages! { find_admin,
    "/admin" => "admin/index.html", "text/html; charset=utf-8";
    "/admin/admin.css" => "admin/admin.css", "text/css; charset=utf-8";
    "/admin/admin.js" => "admin/admin.js", "text/javascript; charset=utf-8";
    "/admin/api.js" => "admin/api.js", "text/javascript; charset=utf-8";
    "/admin/backoff.js" => "backoff.js", "text/javascript; charset=utf-8";
    "/admin/channels.js" => "admin/channels.js", "text/javascript; charset=utf-8";
    "/admin/console.js" => "admin/console.js", "text/javascript; charset=utf-8";
    "/admin/dom.js" => "admin/dom.js", "text/javascript; charset=utf-8";
    "/admin/drain.js" => "admin/drain.js", "text/javascript; charset=utf-8";
    "/admin/event-stream.js" => "admin/event-stream.js", "text/javascript; charset=utf-8";
    "/admin/favicon.svg" => "favicon.svg", "image/svg+xml";
    "/admin/format.js" => "format.js", "text/javascript; charset=utf-8";
    "/admin/overview.js" => "admin/overview.js", "text/javascript; charset=utf-8";
    "/admin/spark.js" => "admin/spark.js", "text/javascript; charset=utf-8";
    "/admin/users.js" => "admin/users.js", "text/javascript; charset=utf-8";
}

impl Page {
    /// The page's entity tag.
    pub(crate) fn etag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.body.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}
