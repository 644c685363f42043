//! The demo page, embedded in the binary. Must not know anything else of the server.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A file of the page.
pub(crate) struct Page {
    pub(crate) content_type: &'static str,
    pub(crate) body: &'static [u8],
}

/// What the page may do: load its own files and speak to its own server.
pub(crate) const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

macro_rules! pages {
    ($($path:literal => $file:literal, $content_type:literal;)*) => {
        /// The page at a path.
        pub(crate) fn find(path: &str) -> Option<Page> {
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

pages! {
    "/" => "index.html", "text/html; charset=utf-8";
}

impl Page {
    /// The page's entity tag.
    pub(crate) fn etag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.body.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }
}
