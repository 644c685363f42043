//! The decoder by its rules, against random splits, and with its own encoder as the peer.

use proptest::prelude::*;

use super::*;

/// A message that owns what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

/// Decodes `bytes`, handed over in pieces that end at `cuts`.
fn decode(bytes: &[u8], cuts: &[usize], deflate: bool, bytes_max: usize) -> (Vec<Owned>, Option<u16>) {
    let (mut decoder, mut inflater) = (Decoder::new(Role::Server, deflate), Inflater::default());
    let mut messages = Vec::new();
    let mut start = 0;
    let ends = cuts.iter().map(|cut| cut % (bytes.len() + 1));
    let mut ends: Vec<usize> = ends.chain([bytes.len()]).collect();
    ends.sort_unstable();
    for end in ends {
        let mut piece = bytes[start..end].to_vec();
        start = end;
        let mut input = Input::new(&mut piece);
        loop {
            match decoder.next(&mut input, &mut inflater, bytes_max) {
                Ok(None) => break,
                Ok(Some(message)) => messages.push(match message {
                    Message::Text(text) => Owned::Text(text.to_owned()),
                    Message::Binary(bytes) => Owned::Binary(bytes.to_vec()),
                    Message::Ping(bytes) => Owned::Ping(bytes.to_vec()),
                    Message::Pong(bytes) => Owned::Pong(bytes.to_vec()),
                    Message::Close(frame) => {
                        Owned::Close(frame.map(|frame| (frame.code.0, frame.reason.to_owned())))
                    }
                }),
                Err(violation) => return (messages, Some(violation.code.0)),
            }
        }
    }
    (messages, None)
}

/// A masked frame with any first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_masked(&mut out, OpCode::Text, payload, [1, 2, 3, 4]);
    out[0] = first;
    out
}

fn code(bytes: &[u8]) -> Option<u16> {
    decode(bytes, &[], true, 1000).1
}

#[test]
fn each_rule_has_its_code() {
    let masked_end = [1, 2, 3, 4];
    let long = |second: u8, length: &[u8]| [&[0x82, second][..], length, &masked_end].concat();
    for (what, bytes, expected) in [
        ("reserved opcode", frame(0x83, b""), 1002),
        ("reserved control opcode", frame(0x8b, b""), 1002),
        ("reserved bit", frame(0xa1, b""), 1002),
        ("compressed control frame", frame(0xc9, b""), 1002),
        ("compressed continuation", [frame(0x01, b"a"), frame(0xc0, b"b")].concat(), 1002),
        ("fragmented control frame", frame(0x09, b""), 1002),
        ("long control frame", frame(0x89, &[0; 126]), 1002),
        ("continuation of nothing", frame(0x80, b"a"), 1002),
        ("message within a message", [frame(0x01, b"a"), frame(0x81, b"b")].concat(), 1002),
        ("not masked", vec![0x81, 0x00], 1002),
        ("length not in 16 bits", long(0xfe, &[0, 125]), 1002),
        ("length not in 64 bits", long(0xff, &[0, 0, 0, 0, 0, 0, 0xff, 0xff]), 1002),
        ("length with the highest bit", long(0xff, &[0x80, 0, 0, 0, 0, 0, 0, 0]), 1002),
        ("too long", long(0xfe, &1001_u16.to_be_bytes()), 1009),
        ("too long in fragments", [frame(0x02, &[0; 600]), frame(0x80, &[0; 600])].concat(), 1009),
        ("too long inflated", frame(0xc2, &bomb(2000)), 1009),
        ("text is not UTF-8", frame(0x81, b"\xff"), 1007),
        (
            "text ends within a character",
            frame(0x81, "\u{20ac}".split_at(0).1[..].as_bytes().split_at(2).0),
            1007,
        ),
        ("text fails before its end", frame(0x01, b"\xed\xa0"), 1007),
        ("too many final blocks", frame(0xc2, &[0x03, 0x00].repeat(100)), 1007),
        ("does not inflate", frame(0xc1, b"\xff\xff\xff"), 1007),
        ("inflates to what is not UTF-8", frame(0xc1, &compressed(&[0xff; 100])), 1007),
        ("close of one byte", frame(0x88, b"\x03"), 1002),
        ("close code 999", frame(0x88, &999_u16.to_be_bytes()), 1002),
        ("close code 1005", frame(0x88, &1005_u16.to_be_bytes()), 1002),
        ("close code 1016", frame(0x88, &1016_u16.to_be_bytes()), 1002),
        ("close code 5000", frame(0x88, &5000_u16.to_be_bytes()), 1002),
        ("close reason is not UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007),
    ] {
        assert_eq!(code(&bytes), Some(expected), "{what}");
    }
}

#[test]
fn compression_that_was_not_agreed_on_is_refused() {
    assert_eq!(decode(&frame(0xc1, &compressed(b"a")), &[], false, 1000).1, Some(1002));
}

#[test]
fn control_frames_come_between_fragments() {
    let bytes = [frame(0x01, b"a"), frame(0x89, b"p"), frame(0x00, b""), frame(0x8a, b""), frame(0x80, b"b")]
        .concat();
    let expected = vec![Owned::Ping(b"p".to_vec()), Owned::Pong(vec![]), Owned::Text("ab".into())];
    assert_eq!(decode(&bytes, &[], false, 1000), (expected, None));
}

#[test]
fn input_may_end_right_after_a_header() {
    let bytes = [frame(0x81, b"first"), frame(0x81, b"second"), frame(0x89, b""), frame(0x82, b"")].concat();
    let expected = vec![
        Owned::Text("first".into()),
        Owned::Text("second".into()),
        Owned::Ping(vec![]),
        Owned::Binary(vec![]),
    ];
    for cut in 0..bytes.len() {
        assert_eq!(decode(&bytes, &[cut], false, 1000), (expected.clone(), None), "cut at {cut}");
    }
}

#[test]
fn nothing_comes_after_a_close() {
    let bytes = [frame(0x88, b"\x03\xe8bye"), frame(0x81, b"late")].concat();
    assert_eq!(decode(&bytes, &[], false, 1000), (vec![Owned::Close(Some((1000, "bye".into())))], None));
}

#[test]
fn an_idle_decoder_is_small_and_holds_nothing() {
    assert!(size_of::<Decoder>() <= 16, "{}", size_of::<Decoder>());
    let (mut decoder, mut inflater) = (Decoder::new(Role::Server, false), Inflater::default());
    let mut bytes = frame(0x81, b"hello");
    let (first, second) = bytes.split_at_mut(8);
    assert!(decoder.next(&mut Input::new(first), &mut inflater, 10).expect("no violation").is_none());
    let mut rest = Input::new(second);
    assert_eq!(decoder.next(&mut rest, &mut inflater, 10), Ok(Some(Message::Text("hello"))));
    assert_eq!(decoder.next(&mut rest, &mut inflater, 10), Ok(None));
    assert!(format!("{decoder:?}").contains("partial: None"));
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let frame = encode_close(CloseCode::POLICY, &"\u{20ac}".repeat(50));
    assert_eq!(frame.len(), 2 + 2 + 123);
    assert!(std::str::from_utf8(&frame[4..]).is_ok());
    let odd = encode_close(CloseCode::POLICY, &format!("x{}", "\u{20ac}".repeat(50)));
    assert!(std::str::from_utf8(&odd[4..]).is_ok());
}

fn compressed(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).and_then(|()| encoder.flush()).expect("into memory");
    let mut out = encoder.get_ref().clone();
    out.truncate(out.len() - 4);
    out
}

fn bomb(inflated_bytes: usize) -> Vec<u8> {
    compressed(&vec![0; inflated_bytes])
}

#[derive(Debug, Clone)]
struct Sent {
    message: Owned,
    fragments: usize,
    compress: bool,
    ping_between: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let message = prop_oneof![
        "\\PC{0,80}".prop_map(Owned::Text),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Owned::Binary),
        prop::collection::vec(0..4_u8, 65_530..65_550).prop_map(Owned::Binary),
    ];
    (message, 1..5_usize, any::<bool>(), any::<bool>()).prop_map(
        |(message, fragments, compress, ping_between)| Sent { message, fragments, compress, ping_between },
    )
}

/// The frames of a message, and the messages that a receiver sees in order.
fn encode(sent: &Sent, out: &mut Vec<u8>, expected: &mut Vec<Owned>) {
    let (opcode, payload) = match &sent.message {
        Owned::Text(text) => (0x01, text.as_bytes()),
        Owned::Binary(bytes) => (0x02, &bytes[..]),
        other => panic!("{other:?} is not sent here"),
    };
    let payload = if sent.compress { compressed(payload) } else { payload.to_vec() };
    let step = payload.len().div_ceil(sent.fragments).max(1);
    let pieces: Vec<&[u8]> = if payload.is_empty() { vec![&[][..]] } else { payload.chunks(step).collect() };
    for (index, piece) in pieces.iter().enumerate() {
        let last = index + 1 == pieces.len();
        let first_bits = if index == 0 { opcode | if sent.compress { 0x40 } else { 0 } } else { 0 };
        out.extend(frame(first_bits | if last { 0x80 } else { 0 }, piece));
        if sent.ping_between && !last {
            out.extend(frame(0x89, b"between"));
            expected.push(Owned::Ping(b"between".to_vec()));
        }
    }
    expected.push(sent.message.clone());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_split_gives_the_same_messages(
        messages in prop::collection::vec(sent(), 0..6),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        messages.iter().for_each(|sent| encode(sent, &mut bytes, &mut expected));
        // Not compared with prop_assert_eq, which would print megabytes.
        let (found, violation) = decode(&bytes, &cuts, true, 1 << 20);
        prop_assert_eq!(violation, None);
        prop_assert!(found == expected, "{} messages, {} expected", found.len(), expected.len());
    }

    #[test]
    fn any_bytes_give_the_same_outcome_however_split(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cuts in prop::collection::vec(any::<usize>(), 0..10),
    ) {
        prop_assert_eq!(decode(&bytes, &cuts, true, 100), decode(&bytes, &[], true, 100));
    }

    #[test]
    fn what_we_compress_another_library_inflates(
        data in prop_oneof![
            prop::collection::vec(0..8_u8, 0..5000),
            prop::collection::vec(any::<u8>(), 0..2000),
            prop::collection::vec(any::<u8>(), 65_000..66_000),
        ],
        narrow: bool,
    ) {
        use std::io::Read;
        let window = if narrow { Window::Narrow } else { Window::Full };
        let frame = Deflater::default().deflated_frame(OpCode::Binary, &data, window).expect("compressed");
        let header = match frame[1] { 126 => 4, 127 => 10, _ => 2 };
        let mut body = frame[header..].to_vec();
        body.extend_from_slice(&[0x00, 0x00, 0xff, 0xff, 0x03, 0x00]);
        let mut inflated = Vec::new();
        flate2::read::DeflateDecoder::new(&body[..]).read_to_end(&mut inflated).expect("inflates");
        prop_assert!(inflated == data);
        prop_assert_eq!(frame[0], 0xc2);
        prop_assert!(frame.len() <= data.len() + 32 + data.len() / 16);
    }
}

/// Two equal halves compress well in a full window, and not at all in one that is smaller than a half.
#[test]
fn a_narrow_window_is_never_looked_beyond() {
    let half: Vec<u8> = (0..2000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 & 0x3f).collect();
    let twice = [&half[..], &half[..]].concat();
    let bytes = |data: &[u8], window| {
        Deflater::default().deflated_frame(OpCode::Binary, data, window).expect("smaller").len()
    };
    assert!(bytes(&twice, Window::Full) < bytes(&half, Window::Full) * 5 / 4);
    assert!(bytes(&twice, Window::Narrow) > bytes(&half, Window::Narrow) * 7 / 4);
}
