//! A connection to one server of a Kafka: one request at a time, and its answer. Must not know what is asked.
//!
//! Requests have fixed versions, the oldest that say what is needed: all Kafkas since 2.2 speak them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::address::Address;
use super::sasl;
use crate::backplane::broker::BrokerError;

/// The largest answer; what is fetched at once is far smaller, unless an event is not.
const ANSWER_BYTES_MAX: usize = 300 << 20;

/// What is true of a request's type.
pub(super) trait Ask: Encodable {
    const KEY: ApiKey;
    const VERSION: i16;
    type Answer: Decodable;
}

/// How to connect to any server of a Kafka.
#[derive(Clone)]
pub(super) struct Dialer {
    pub(super) address: Arc<Address>,
    pub(super) timeout: Duration,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// How this node says who it is, once a server agreed to it.
    mechanism: Arc<OnceLock<&'static str>>,
}

impl Dialer {
    pub(super) fn new(address: Arc<Address>, timeout: Duration) -> Result<Self, BrokerError> {
        let tls = address.is_tls.then(|| crate::trust::client(&[])).transpose();
        let tls = tls.map_err(|error| BrokerError(format!("TLS cannot be used here: {error}")))?;
        Ok(Self { address, timeout, tls, mechanism: Arc::default() })
    }

    /// One that waits for at least so long.
    pub(super) fn patient(&self, timeout: Duration) -> Self {
        Self { timeout: self.timeout.max(timeout), ..self.clone() }
    }

    /// Connects to a server, and says who this is.
    pub(super) async fn connect(&self, authority: &str) -> Result<Connection, BrokerError> {
        let connecting = self.connect_now(authority);
        match tokio::time::timeout(self.timeout, connecting).await {
            Ok(outcome) => outcome,
            Err(_) => Err(away(authority, &format!("no answer within {} ms", self.timeout.as_millis()))),
        }
    }

    async fn connect_now(&self, authority: &str) -> Result<Connection, BrokerError> {
        let mut connection = self.open(authority).await?;
        let Some((user, password)) = &self.address.user else { return Ok(connection) };
        let mut mechanism = self.mechanism.get().copied().unwrap_or(sasl::FIRST);
        if let Some(known) = sasl::authenticate(&mut connection, mechanism, user, password).await? {
            mechanism = sasl::best(&known, self.address.is_tls)?;
            connection = self.open(authority).await?;
            if sasl::authenticate(&mut connection, mechanism, user, password).await?.is_some() {
                return Err(away(authority, &format!("it knows {mechanism}, and refuses it")));
            }
        }
        let _ = self.mechanism.set(mechanism);
        Ok(connection)
    }

    async fn open(&self, authority: &str) -> Result<Connection, BrokerError> {
        let failed = |error: std::io::Error| away(authority, &error.to_string());
        let stream = TcpStream::connect(authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
                let name = name.map_err(|_| away(authority, "its host is no name for TLS"))?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                Box::new(connector.connect(name, stream).await.map_err(failed)?)
            }
        };
        let authority = authority.to_owned();
        Ok(Connection { stream, authority, asked: 0, is_idle: true, timeout: self.timeout })
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection to one server.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    authority: String,
    asked: i32,
    /// Nobody gave up waiting for an answer.
    is_idle: bool,
    timeout: Duration,
}

impl Connection {
    /// Asks, and waits for the answer.
    pub(super) async fn ask<A: Ask>(&mut self, ask: &A) -> Result<A::Answer, BrokerError> {
        self.ask_waiting(ask, Duration::ZERO).await
    }

    /// As [`Self::ask`], where the server itself may wait before it answers.
    pub(super) async fn ask_waiting<A: Ask>(
        &mut self,
        ask: &A,
        wait: Duration,
    ) -> Result<A::Answer, BrokerError> {
        if !self.is_idle {
            return Err(away(&self.authority, "somebody gave up waiting for its answer"));
        }
        self.is_idle = false;
        let timeout = self.timeout + wait;
        let answer = match tokio::time::timeout(timeout, self.exchange(ask)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(away(&self.authority, &error.to_string())),
            Err(_) => {
                let why = format!("no answer to {:?} within {} ms", A::KEY, timeout.as_millis());
                return Err(away(&self.authority, &why));
            }
        };
        self.is_idle = true;
        Ok(answer)
    }

    async fn exchange<A: Ask>(&mut self, ask: &A) -> anyhow::Result<A::Answer> {
        self.asked = self.asked.wrapping_add(1);
        let mut out = BytesMut::new();
        out.put_u32(0);
        let header = RequestHeader::default()
            .with_request_api_key(A::KEY as i16)
            .with_request_api_version(A::VERSION)
            .with_correlation_id(self.asked)
            .with_client_id(Some(StrBytes::from_static_str("tidewire")));
        header.encode(&mut out, 1)?;
        ask.encode(&mut out, A::VERSION)?;
        let length = u32::try_from(out.len() - 4)?;
        out[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        let length = self.stream.read_u32().await? as usize;
        anyhow::ensure!((4..=ANSWER_BYTES_MAX).contains(&length), "it said something odd: {length} bytes");
        let mut answer = BytesMut::zeroed(length);
        self.stream.read_exact(&mut answer).await?;
        let mut answer: Bytes = answer.freeze();
        anyhow::ensure!(answer.get_i32() == self.asked, "it answered another question");
        A::Answer::decode(&mut answer, A::VERSION)
    }
}

fn away(authority: &str, why: &str) -> BrokerError {
    BrokerError(format!("{authority}: {why}"))
}
