//! How to connect to a NATS, and what must be there before it is of use. Must not know what is said later.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::address::Address;
use super::broker::NatsBroker;
use super::feed::{Ear, Feed};
use super::library::Library;
use super::meta::{self, Meta, Witness};
use super::office::Office;
use super::streams;
use super::wire::{NOTICES, Wire};
use crate::backplane::broker::{Broker, BrokerError, Known, Notice};

/// Where a NATS is, who connects to it, and what was seen there.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: Address,
    timeout: Duration,
    witness: Arc<Mutex<Witness>>,
}

impl Target {
    /// Reads a URL: an [`Address`].
    pub(crate) fn parse(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        Ok(Self { address: Address::parse(url)?, timeout, witness: Arc::default() })
    }

    /// Connects. The log has this number and secret if it has none yet.
    pub(in crate::backplane) async fn connect(
        &self,
        known: Option<Known>,
    ) -> Result<Box<dyn Broker + Send>, BrokerError> {
        let mut hosts = self.address.hosts.clone();
        fastrand::shuffle(&mut hosts);
        let share = self.timeout / hosts.len().max(1) as u32;
        let mut failure = BrokerError("it has no address".to_owned());
        for host in hosts {
            let (notices, heard) = mpsc::channel(NOTICES);
            match Wire::connect(&self.address, &host, self.timeout, share, notices.clone()).await {
                Ok(wire) => return self.open(wire, notices, heard, known).await,
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn open(
        &self,
        wire: Wire,
        notices: mpsc::Sender<Notice>,
        heard: mpsc::Receiver<Notice>,
        known: Option<Known>,
    ) -> Result<Box<dyn Broker + Send>, BrokerError> {
        let prefix = &self.address.prefix;
        let stream = streams::open(&wire, prefix, self.address.replicas).await?;
        let mut library = Library {
            wire,
            prefix: prefix.as_str().into(),
            is_alone: stream.replicas == 1,
            meta: Arc::new(Meta::unknown()),
            witness: Arc::clone(&self.witness),
        };
        library.meta = Arc::new(meta::open(&library, &stream, known).await?);
        // What was appended by an earlier connection, and answered to nobody, is heard like that of others.
        let node = fastrand::u64(..);
        let is_deaf = Arc::new(AtomicBool::new(false));
        let ear =
            Ear { library: library.clone(), node, notices: notices.clone(), is_deaf: Arc::clone(&is_deaf) };
        let feed = Feed::open(ear).await?;
        let office = Office { library, node, notices, is_closed: Arc::default() };
        Ok(Box::new(NatsBroker::new(office, feed, heard, is_deaf, stream.leader)))
    }
}
