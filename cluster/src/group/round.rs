//! What one round of raft-rs asks for, put into effects: messages, writes, and what committed entries make of the machine.

use raft::StateRole;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use super::wire::{self, Place};
use super::{ENTRY_HEADER_LEN, Effect, Error, GroupCore, check_version, fresh, stamped};
use crate::log::Write;
use crate::machine::{Machine, Meta};

impl<M: Machine> GroupCore<M> {
    /// Moves everything that has become due into `out`.
    pub fn poll(&mut self, out: &mut Vec<Effect<M::Effect>>) -> Result<(), Error> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.raw.store().check()?;
        self.poll_reform(out);
        self.poll_freshness(out);
        while self.raw.has_ready() {
            self.ready(out)?;
        }
        self.poll_freshness(out);
        self.send_waiting(out)?;
        self.abdicate(out)?;
        self.renew_snapshot(out);
        self.raw.mut_store().round_ends();
        self.report_role(out);
        self.raw.store().check()?;
        Ok(())
    }

    fn ready(&mut self, out: &mut Vec<Effect<M::Effect>>) -> Result<(), Error> {
        let mut ready = self.raw.ready();
        self.raw.store().check()?;
        let number = ready.number();
        for message in ready.take_messages() {
            self.send(message, out)?;
        }

        let mut writes = Vec::new();
        let mut sync = false;
        let mut last_entry = None;
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().clone();
            self.install(&snapshot, &mut writes)?;
            self.members_changed(out);
            out.push(Effect::Restored);
            sync = true;
        }
        if let Some(hard_state) = ready.hs() {
            let state = &mut self.raw.mut_store().state;
            let vote_changed = state.term != hard_state.term || state.vote != hard_state.vote;
            state.term = hard_state.term;
            state.vote = hard_state.vote;
            state.commit = hard_state.commit;
            // The commit index alone is not worth a write: a restarted group learns it from its leader.
            if vote_changed {
                writes.push(Write::State {
                    group: self.group,
                    state: state.clone(),
                });
                sync = true;
            }
        }
        let entries = self.raw.mut_store().complete(ready.take_entries());
        if let Some(last) = entries.last() {
            last_entry = Some(last.index);
            self.log_bytes_since_snapshot += entries.iter().map(|entry| entry.data.len() as u64 + 32).sum::<u64>();
            self.note_changes(&entries, &mut writes);
            let view = self.raw.mut_store();
            let stored_last = view.append(&entries);
            let generation = view.state.generation;
            writes.push(Write::Append {
                group: self.group,
                generation,
                entries,
                stored_last,
            });
            sync = true;
        }
        let persisted_messages = ready.take_persisted_messages();
        let committed = ready.take_committed_entries();
        self.raw.advance_append_async(ready);

        let acknowledges = |message: &Message| message.get_msg_type() == MessageType::MsgAppendResponse;
        if !writes.is_empty()
            && self.waiting.is_empty()
            && !self.is_fresh()
            && persisted_messages.iter().all(acknowledges)
        {
            for message in persisted_messages {
                let to = message.to;
                let view = self.raw.mut_store();
                let reformed = view.state.reformed;
                let message = wire::encode(&message, reformed, |place| view.payload(place))?;
                out.push(Effect::SendStored { to, message });
            }
        } else if !persisted_messages.is_empty() {
            self.waiting.push_back((number, persisted_messages));
        }
        if writes.is_empty() && self.writing.is_empty() {
            self.raw.on_persist_ready(number);
        } else {
            let wait = !writes.is_empty();
            self.writing.push_back((number, last_entry));
            if wait {
                out.push(Effect::Write {
                    writes,
                    sync,
                    number: Some(number),
                });
            } else if let Some((written, _)) = self.writing.iter().rev().nth(1).copied() {
                // Nothing to write of its own: it counts as written with the one before it.
                self.writing.pop_back();
                self.retag(number, written);
            }
        }

        if let Some(last) = committed.last() {
            let applied = last.index;
            self.apply(committed, out)?;
            self.raw.advance_apply_to(applied);
            self.compact(out);
            self.raw.mut_store().evict(applied, false);
        }
        Ok(())
    }

    /// Lets the messages that wait for `number` leave with `written`.
    fn retag(&mut self, number: u64, written: u64) {
        if let Some((waiting_for, _)) = self.waiting.back_mut()
            && *waiting_for == number
        {
            *waiting_for = written;
        }
    }

    fn send_waiting(&mut self, out: &mut Vec<Effect<M::Effect>>) -> Result<(), Error> {
        let unwritten = self.writing.front().map(|(number, _)| *number);
        while let Some((number, _)) = self.waiting.front() {
            if unwritten.is_some_and(|unwritten| *number >= unwritten) {
                break;
            }
            if let Some((_, messages)) = self.waiting.pop_front() {
                for message in messages {
                    self.send(message, out)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn send(&mut self, mut message: Message, out: &mut Vec<Effect<M::Effect>>) -> Result<(), Error> {
        let to = message.to;
        if self.is_fresh() {
            self.restrain(&mut message);
        }
        if self.down.contains(&to) && message.get_msg_type() == MessageType::MsgAppend {
            return Ok(());
        }
        let snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        let view = self.raw.mut_store();
        let reformed = view.state.reformed;
        let message = wire::encode(&message, reformed, |place| view.payload(place))?;
        if snapshot {
            let state = self.raw.store().state.clone();
            let end = state.snapshot_index + 1;
            let live = self.machine.live().into_iter();
            let live = live
                .take_while(|range| range.start < end)
                .map(|range| range.start..range.end.min(end))
                .collect();
            self.sending.insert(to, state.snapshot_index);
            out.push(Effect::SendSnapshot {
                to,
                message,
                state,
                live,
            });
        } else {
            out.push(Effect::Send { to, message });
        }
        Ok(())
    }

    fn apply(&mut self, committed: Vec<Entry>, out: &mut Vec<Effect<M::Effect>>) -> Result<(), Error> {
        let leads = self.raw.raft.state == StateRole::Leader;
        for entry in committed {
            self.applied = entry.index;
            if entry.entry_type != EntryType::EntryNormal as i32 {
                self.apply_change(&entry, out);
                continue;
            }
            if wire::named(&entry).is_none_or(|len| len < ENTRY_HEADER_LEN) {
                continue;
            }
            let data = self.raw.mut_store().payload(Place::of(&entry))?;
            let Some((version, time_ms, payload)) = stamped(&data) else {
                continue;
            };
            if entry.term == self.raw.raft.term {
                self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(payload.len() as u64);
            }
            self.stamp_ms = self.stamp_ms.max(time_ms);
            if version == fresh::OWN_VERSION {
                self.apply_own(payload, out);
                continue;
            }
            check_version(self.group, entry.index, version, &self.options.versions)?;
            self.version = self.version.max(version);
            let meta = Meta {
                index: entry.index,
                term: entry.term,
                time_ms,
                version,
            };
            self.machine.apply(&meta, payload, &mut self.effects);
            if leads || self.options.effects_everywhere {
                out.extend(self.effects.drain(..).map(Effect::Machine));
            } else {
                self.effects.clear();
            }
        }
        Ok(())
    }
}
