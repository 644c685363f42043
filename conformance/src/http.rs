//! Plain HTTP requests through ureq, with each answer read to its end.
//! Must not know what the answers mean.

use std::io::Read;
use std::time::Duration;

use ureq::{Agent, http};

use crate::Result;

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields, names in lower case.
    pub head: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("status {}, body is no JSON ({error}): {}", self.status, self.text()))
    }
}

/// How long any single read may take; also how often a reader with a deadline looks at the clock.
pub const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// An agent that treats every status as an answer and asks for nothing by itself.
pub fn agent(read_timeout: Duration) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_per_read(Some(read_timeout))
        .timeout_connect(Some(Duration::from_secs(10)))
        .input_buffer_size(16 << 10)
        .output_buffer_size(16 << 10)
        .max_idle_connections(1)
        .accept("")
        .allow_non_standard_methods(true)
        .build()
        .new_agent()
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// When no whole answer came.
pub fn exchange(
    agent: &Agent,
    method: &str,
    url: &str,
    head: &[(String, String)],
    body: Option<&[u8]>,
) -> Result<Answer> {
    let what = format!("{method} {}", crate::event::shorten(url));
    let response = send(agent, method, url, head, body).map_err(|error| format!("{what}: {error}"))?;
    let status = response.status().as_u16();
    let head = fields(response.headers());
    let mut body = Vec::new();
    let read = response.into_body().into_with_config().limit(256 << 20).reader().read_to_end(&mut body);
    read.map_err(|error| format!("{what}: status {status}, then the body broke off: {error}"))?;
    Ok(Answer { status, head, body })
}

/// Sends a request and returns when the head of the answer is there.
///
/// # Errors
/// Whatever ureq says.
pub fn send(
    agent: &Agent,
    method: &str,
    url: &str,
    head: &[(String, String)],
    body: Option<&[u8]>,
) -> std::result::Result<http::Response<ureq::Body>, ureq::Error> {
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in head {
        request = request.header(name, value);
    }
    match body {
        Some(body) => agent.run(request.body(body)?),
        None => agent.run(request.body(())?),
    }
}

/// The fields of a head, names in lower case.
pub fn fields(head: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    head.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}
