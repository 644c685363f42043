//! RFC 6455 and RFC 7692, sans I/O: bytes in, messages out, and the reverse.
