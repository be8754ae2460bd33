//! A session that asks a queue one thing, for the operator.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;
use warren_proto::queue::reply::Kind as Reply;
use warren_proto::record::{BatchWriter, Command, SessionId};

use crate::directory::{Directory, Leader, SessionEvent};

/// When the question is asked again.
const REPEAT: Duration = Duration::from_millis(500);
/// When it is given up.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Asks the queue's leader, wherever it is; `None` if it does not answer in time or the queue goes meanwhile.
pub(super) async fn ask_queue(directory: Arc<Directory>, group: u64, command: &Command<'_>) -> Option<Reply> {
    let mut batch = BatchWriter::new(SessionId::SYSTEM, 1);
    batch.push(command);
    let (answer_tx, answer) = oneshot::channel();
    let question = Question {
        directory,
        group,
        command: batch,
        answer: Some(answer_tx),
        asked: None,
    };
    let _address = question.start();
    answer.await.ok()
}

struct Question {
    directory: Arc<Directory>,
    group: u64,
    command: BatchWriter,
    answer: Option<oneshot::Sender<Reply>>,
    asked: Option<(SessionId, Bytes, Leader)>,
}

impl Question {
    fn send(&self) {
        if let Some((_, batch, leader)) = &self.asked {
            // What is not sent now is sent with the next repeat.
            let _ = self.directory.send(self.group, leader, batch.clone());
        }
    }
}

impl Actor for Question {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let session = self.directory.open_session(ctx.address().recipient());
        let leader = self.directory.watch(self.group, session);
        let batch = self.command.clone().with_session(session).finish();
        self.asked = Some((session, batch, leader));
        self.send();
        ctx.run_interval(REPEAT, |question, _| question.send());
        ctx.run_later(GIVE_UP, |_, ctx| ctx.stop());
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some((session, _, _)) = self.asked.take() {
            self.directory.end_session_in(self.group, session);
            self.directory.close_session(session);
        }
    }
}

impl Handler<SessionEvent> for Question {
    type Result = ();

    fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
        match event {
            SessionEvent::Events(events) => {
                let reply = events.replies.into_iter().find_map(|(_, reply)| reply.kind);
                if let Some(reply) = reply
                    && let Some(answer) = self.answer.take()
                {
                    // The operator may have gone.
                    let _ = answer.send(reply);
                    ctx.stop();
                }
            }
            SessionEvent::Leader { leader, .. } => {
                if let Some((_, _, known)) = &mut self.asked {
                    *known = leader;
                }
                self.send();
            }
            // It is nobody's.
            SessionEvent::Deleted(_) => {}
            SessionEvent::QueueGone { .. } | SessionEvent::Close { .. } => ctx.stop(),
            // It has no channels.
            SessionEvent::Reply(_) | SessionEvent::ReplyQueueIs { .. } => {}
        }
    }
}
