//! Bytes as a client might send them: nothing panics, and what decodes is what its own encoding decodes to.
//!
//! The bytes are taken as a stream of frames, and also as each kind of payload by itself, so that a run need not
//! first invent a frame around every payload.

#![no_main]

use bytes::{Bytes, BytesMut};
use codec::content::{Header, Properties, glance, put_content, with_headers};
use codec::frame::{self, Kind};
use codec::method::{Method, put_method};
use codec::reply_code::Fault;
use codec::table::Table;
use libfuzzer_sys::fuzz_target;

const FRAME_MAX: u32 = 131_072;

fuzz_target!(|data: &[u8]| {
    let mut stream = BytesMut::from(data);
    loop {
        match frame::decode(&mut stream, FRAME_MAX) {
            Ok(Some(frame)) => {
                let mut encoded = BytesMut::new();
                frame.encode(&mut encoded);
                let again = frame::decode(&mut encoded, FRAME_MAX);
                assert_eq!(again.as_ref(), Ok(&Some(frame.clone())));
                assert!(encoded.is_empty());
                match frame.kind {
                    Kind::Method => check_method(&frame.payload),
                    Kind::Header => check_header(&frame.payload),
                    Kind::Body | Kind::Heartbeat => {}
                }
            }
            Ok(None) => break,
            Err(error) => {
                let fault = Fault::from(error);
                assert!(fault.code.is_hard() && fault.reply_text().len() <= 255);
                break;
            }
        }
    }
    let payload = Bytes::copy_from_slice(data);
    check_method(&payload);
    check_header(&payload);
    check_properties(&payload);
    check_table(&payload);
});

fn check_method(payload: &Bytes) {
    match Method::decode(payload) {
        Ok(method) => {
            let mut framed = BytesMut::new();
            put_method(&mut framed, 1, &method);
            let frame = frame::decode(&mut framed, u32::MAX)
                .expect("a frame")
                .expect("all of it");
            assert_eq!(Method::decode(&frame.payload), Ok(method));
        }
        Err(error) => assert!(Fault::from(error).code.is_hard()),
    }
}

fn check_header(payload: &Bytes) {
    if let Ok(header) = Header::decode(payload) {
        let mut encoded = BytesMut::new();
        header.encode(&mut encoded);
        assert_eq!(Header::decode(&encoded.freeze()).as_ref(), Ok(&header));
        check_properties(&header.properties);
    }
}

fn check_properties(bytes: &Bytes) {
    let decoded = Properties::decode(bytes);
    let glanced = glance(bytes);
    assert_eq!(glanced.as_ref().err(), decoded.as_ref().err());
    let (Ok(properties), Ok(glanced)) = (decoded, glanced) else {
        return;
    };
    assert_eq!(Properties::decode(&properties.to_bytes()).as_ref(), Ok(&properties));
    let headers = glanced
        .headers
        .map(|bytes| Table::decode(&bytes).expect("glance has checked it"));
    assert_eq!(headers, properties.headers);

    // The same headers put back change nothing but their own encoding.
    let replaced = with_headers(bytes, headers.as_ref(), true).expect("glance has checked it");
    assert_eq!(Properties::decode(&replaced), Ok(properties));

    // Relayed content begins with the same bytes.
    let mut relayed = BytesMut::new();
    put_content(&mut relayed, 1, bytes, &Bytes::new(), FRAME_MAX);
    let frame = frame::decode(&mut relayed, u32::MAX)
        .expect("a frame")
        .expect("all of it");
    assert_eq!(
        Header::decode(&frame.payload).map(|header| header.properties).as_ref(),
        Ok(bytes)
    );
}

fn check_table(bytes: &Bytes) {
    for table in [Table::decode(bytes), Table::decode_fields(bytes)]
        .into_iter()
        .flatten()
    {
        assert_eq!(Table::decode(&table.to_bytes()).as_ref(), Ok(&table));
        assert_eq!(table.detach(), table);
        assert!(table.cmp(&table).is_eq());
    }
}
