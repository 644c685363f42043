//! What is asked of a Kafka's servers, and their answers in the backplane's words. Must not know what records mean.

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    ApiKey, BrokerId, DeleteRecordsRequest, DeleteRecordsResponse, FetchRequest, FetchResponse,
    ListOffsetsRequest, ListOffsetsResponse, ProduceRequest, ProduceResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use std::time::Duration;

use super::connection::{Ask, Connection};
use crate::backplane::broker::BrokerError;

/// The offset of the oldest record, and of the one that comes next.
pub(super) const EARLIEST: i64 = -2;
pub(super) const LATEST: i64 = -1;

/// The bytes before a batch's records that say how long it is.
const BATCH_HEAD: usize = 12;
/// And those after them that say where its last record is.
const BATCH_START: usize = 15;

impl Ask for ProduceRequest {
    const KEY: ApiKey = ApiKey::Produce;
    const VERSION: i16 = 7;
    type Answer = ProduceResponse;
}

impl Ask for FetchRequest {
    const KEY: ApiKey = ApiKey::Fetch;
    const VERSION: i16 = 10;
    type Answer = FetchResponse;
}

impl Ask for ListOffsetsRequest {
    const KEY: ApiKey = ApiKey::ListOffsets;
    const VERSION: i16 = 5;
    type Answer = ListOffsetsResponse;
}

impl Ask for DeleteRecordsRequest {
    const KEY: ApiKey = ApiKey::DeleteRecords;
    const VERSION: i16 = 1;
    type Answer = DeleteRecordsResponse;
}

/// A record to write: its key and value.
pub(super) type Write = (Bytes, Bytes);

/// A record of a partition.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) position: u64,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

/// What was fetched of a partition.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) records: Vec<Read>,
    /// The position after all that was fetched, whether it were records or what Kafka keeps for itself.
    pub(super) next: u64,
}

/// An error of a Kafka as people read it.
pub(super) fn worded(what: &str, code: i16, more: Option<&str>) -> BrokerError {
    let name = match ResponseError::try_from_code(code) {
        Some(error) => error.to_string(),
        None => format!("error {code}"),
    };
    let more = more.map(|more| format!(" ({more})")).unwrap_or_default();
    BrokerError(format!("{what}: {name}{more}"))
}

pub(super) fn problem(what: &str) -> BrokerError {
    BrokerError(what.to_owned())
}

fn odd<E>(_: E) -> BrokerError {
    problem("it said something odd: no records")
}

fn name_of(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// One partition of a topic.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) topic: String,
    pub(super) partition: i32,
}

impl Place {
    fn failed(&self, verb: &str, code: i16) -> BrokerError {
        worded(&format!("cannot {verb} partition {} of {}", self.partition, self.topic), code, None)
    }

    /// Appends records, in this order and side by side. They are stored as the topic says when this is answered.
    pub(super) async fn produce(
        &self,
        connection: &mut Connection,
        writes: &[Write],
        now_ms: u64,
        timeout: Duration,
    ) -> Result<(), BrokerError> {
        let records: Vec<Record> =
            writes.iter().enumerate().map(|(index, write)| record(index, write, now_ms)).collect();
        let mut batch = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut batch, &records, &options).map_err(odd)?;
        let data =
            PartitionProduceData::default().with_index(self.partition).with_records(Some(batch.freeze()));
        let topic =
            TopicProduceData::default().with_name(name_of(&self.topic)).with_partition_data(vec![data]);
        let ask = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(timeout.as_millis() as i32)
            .with_topic_data(vec![topic]);
        let answer = connection.ask(&ask).await?;
        let said = answer.responses.first().and_then(|topic| topic.partition_responses.first());
        match said.ok_or_else(|| odd(()))?.error_code {
            0 => Ok(()),
            code => Err(self.failed("write to", code)),
        }
    }

    /// Records from a position on; waits so long for the first if there are none.
    pub(super) async fn fetch(
        &self,
        connection: &mut Connection,
        position: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Fetched, BrokerError> {
        let bytes_max = i32::try_from(bytes_max).unwrap_or(i32::MAX);
        let partition = FetchPartition::default()
            .with_partition(self.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(position as i64)
            .with_partition_max_bytes(bytes_max);
        let topic = FetchTopic::default().with_topic(name_of(&self.topic)).with_partitions(vec![partition]);
        let ask = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(wait.as_millis() as i32)
            .with_min_bytes(1)
            .with_max_bytes(bytes_max)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let answer = connection.ask_waiting(&ask, wait).await?;
        if answer.error_code != 0 {
            return Err(self.failed("read", answer.error_code));
        }
        let said = answer.responses.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
        let said = said.ok_or_else(|| odd(()))?;
        match said.error_code {
            0 => records(position, said.records.unwrap_or_default()),
            code => Err(self.failed("read", code)),
        }
    }

    /// The position that [`EARLIEST`], [`LATEST`] or a time in milliseconds stands for; none if nothing is that new.
    pub(super) async fn position(
        &self,
        connection: &mut Connection,
        of: i64,
    ) -> Result<Option<u64>, BrokerError> {
        /// A new leader does not know yet that it is one, or how far its followers are.
        const NOT_YET: [i16; 4] = [3, 5, 6, 78];
        /// How often it is asked again, after so long.
        const TRIES: usize = 6;
        const PAUSE_MS: u64 = 20;
        let mut attempt = 0;
        loop {
            let partition = ListOffsetsPartition::default()
                .with_partition_index(self.partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(of);
            let topic =
                ListOffsetsTopic::default().with_name(name_of(&self.topic)).with_partitions(vec![partition]);
            let ask = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
            let answer = connection.ask(&ask).await?;
            let said = answer.topics.first().and_then(|topic| topic.partitions.first());
            let said = said.ok_or_else(|| odd(()))?;
            match said.error_code {
                0 => return Ok(u64::try_from(said.offset).ok()),
                code if attempt < TRIES && NOT_YET.contains(&code) => {
                    tokio::time::sleep(Duration::from_millis(PAUSE_MS << attempt)).await;
                    attempt += 1;
                }
                code => return Err(self.failed("read", code)),
            }
        }
    }

    /// Deletes all records before a position.
    pub(super) async fn delete_before(
        &self,
        connection: &mut Connection,
        position: u64,
        timeout: Duration,
    ) -> Result<(), BrokerError> {
        let partition = DeleteRecordsPartition::default()
            .with_partition_index(self.partition)
            .with_offset(position as i64);
        let topic =
            DeleteRecordsTopic::default().with_name(name_of(&self.topic)).with_partitions(vec![partition]);
        let ask = DeleteRecordsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(timeout.as_millis() as i32);
        let answer = connection.ask(&ask).await?;
        let said = answer.topics.first().and_then(|topic| topic.partitions.first());
        match said.ok_or_else(|| odd(()))?.error_code {
            0 => Ok(()),
            code => Err(self.failed("delete the front of", code)),
        }
    }
}

fn record(index: usize, (key, value): &Write, now_ms: u64) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: index as i64,
        sequence: index as i32 - 1, // the batch has none: -1 for its first
        timestamp: now_ms as i64,
        key: Some(key.clone()),
        value: Some(value.clone()),
        headers: Default::default(),
    }
}

/// The records of whole batches, from a position on. The last batch may be cut off, and is fetched anew then.
fn records(position: u64, mut bytes: Bytes) -> Result<Fetched, BrokerError> {
    let mut fetched = Fetched { records: Vec::new(), next: position };
    while bytes.len() >= BATCH_HEAD + BATCH_START {
        let mut head = &bytes[..BATCH_HEAD + BATCH_START];
        let base = head.get_u64();
        let length = BATCH_HEAD + head.get_u32() as usize;
        if bytes.len() < length {
            break;
        }
        // Leader epoch, format and checksum; attributes; how far the last record is from the first.
        head.advance(4 + 1 + 4 + 2);
        let last = base + u64::from(head.get_u32());
        let mut batch = bytes.split_to(length);
        let set = RecordBatchDecoder::decode(&mut batch).map_err(|error| {
            problem(&format!("its records cannot be read ({error}); set compression.type=producer"))
        })?;
        for record in set.records {
            let at = record.offset as u64;
            if at >= position && !record.control {
                let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
                fetched.records.push(Read { position: at, key, value });
            }
        }
        fetched.next = fetched.next.max(last + 1);
    }
    Ok(fetched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were_and_half_a_batch_is_left() {
        let writes: Vec<Write> =
            (0..3).map(|n| (Bytes::from_static(b"k"), Bytes::from(vec![n; 10]))).collect();
        let mut batch = BytesMut::new();
        let all: Vec<Record> =
            writes.iter().enumerate().map(|(index, write)| record(index, write, 7)).collect();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut batch, &all, &options).expect("right");
        let whole = batch.clone();
        batch.extend_from_slice(&whole[..whole.len() - 1]);
        let fetched = records(1, batch.freeze()).expect("right");
        assert_eq!(fetched.next, 3);
        let positions: Vec<u64> = fetched.records.iter().map(|record| record.position).collect();
        assert_eq!(positions, [1, 2]);
        assert_eq!(fetched.records[1].value, vec![2; 10]);
        let nothing = records(5, whole.freeze().slice(..20)).expect("right");
        assert_eq!((nothing.records.len(), nothing.next), (0, 5));
    }
}
