//! Reply codes and faults.

use proptest::prelude::*;

use crate::amqp::reply_code::{Fault, ReplyCode};
use crate::amqp::{Method, frame, method, wire};

#[test]
fn codes_are_those_of_the_specification() {
    let rows: Vec<_> = ReplyCode::ALL
        .iter()
        .map(|code| (code.code(), code.name(), code.is_hard()))
        .collect();
    let expected = [
        (200, "REPLY_SUCCESS", false),
        (311, "CONTENT_TOO_LARGE", false),
        (312, "NO_ROUTE", false),
        (313, "NO_CONSUMERS", false),
        (320, "CONNECTION_FORCED", true),
        (402, "INVALID_PATH", true),
        (403, "ACCESS_REFUSED", false),
        (404, "NOT_FOUND", false),
        (405, "RESOURCE_LOCKED", false),
        (406, "PRECONDITION_FAILED", false),
        (501, "FRAME_ERROR", true),
        (502, "SYNTAX_ERROR", true),
        (503, "COMMAND_INVALID", true),
        (504, "CHANNEL_ERROR", true),
        (505, "UNEXPECTED_FRAME", true),
        (506, "RESOURCE_ERROR", true),
        (530, "NOT_ALLOWED", true),
        (540, "NOT_IMPLEMENTED", true),
        (541, "INTERNAL_ERROR", true),
    ];
    assert_eq!(rows, expected);
    for &code in ReplyCode::ALL {
        assert_eq!(ReplyCode::from_code(code.code()), Some(code));
    }
    assert_eq!(ReplyCode::from_code(999), None);
}

#[test]
fn a_fault_says_its_name_and_why() {
    let fault = Fault::new(ReplyCode::NotFound, "no queue 'q' in vhost '/'").of((60, 20));
    assert_eq!(fault.to_string(), "NOT_FOUND - no queue 'q' in vhost '/'");
    let expected = Method::ChannelClose {
        reply_code: 404,
        reply_text: "NOT_FOUND - no queue 'q' in vhost '/'".into(),
        class_id: 60,
        method_id: 20,
    };
    assert_eq!(fault.channel_close(), expected);
    assert!(matches!(
        fault.connection_close(),
        Method::ConnectionClose { reply_code: 404, .. }
    ));
}

proptest! {
    #[test]
    fn a_long_text_is_cut_between_characters(text in "\\PC{0,300}") {
        let fault = Fault::new(ReplyCode::NotFound, text);
        let (whole, reply) = (fault.to_string(), fault.reply_text());
        if whole.len() <= 255 {
            prop_assert_eq!(reply.as_str(), whole);
        } else {
            let kept = reply.strip_suffix("...").expect("an ellipsis");
            prop_assert!(whole.starts_with(kept) && reply.len() > 255 - 4 && reply.len() <= 255);
        }
    }
}

#[test]
fn undecodable_input_has_its_codes() {
    let check = |fault: Fault, code, text: &str| assert_eq!((fault.code, fault.text.as_str()), (code, text));
    check(
        frame::Error::BadEnd(1).into(),
        ReplyCode::FrameError,
        "{invalid_frame_end_marker,1}",
    );
    check(
        method::Error::MalformedUtf8.into(),
        ReplyCode::FrameError,
        "Malformed UTF-8 in shortstr",
    );
    check(
        wire::Error::MalformedUtf8.into(),
        ReplyCode::FrameError,
        "Malformed UTF-8 in shortstr",
    );
    let unknown = Fault::from(method::Error::Unknown { class: 60, method: 41 });
    assert_eq!((unknown.class, unknown.method), (60, 41));
    check(unknown, ReplyCode::CommandInvalid, "unimplemented method");
    for error in [
        method::Error::Truncated,
        method::Error::UnknownFieldType(0),
        method::Error::TooDeep,
    ] {
        let fault = Fault::from(error);
        assert_eq!(fault.code, ReplyCode::FrameError);
        assert!(fault.text.starts_with("cannot decode"), "{fault}");
    }
}
