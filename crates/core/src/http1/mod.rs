//! HTTP/1.x for a server (RFC 9110, RFC 9112), sans I/O. The only HTTP/1 parser of Tidewire, so that
//! no two parsers can disagree about where a request ends. Must not know routes.

mod body;
mod head;
mod query;
mod response;

pub use body::BodyDecoder;
pub use head::{
    BodyLength, HeadLimits, HeaderSpace, Method, Parsed, Request, Version, header_space, parse_request,
};
pub use query::{Query, decode_path_segment};
pub use response::{ResponseHead, if_none_match};
