//! Tables: a line of events, and what is said of the peers after each.
//!
//! Times are in ms; silence is 1,000, broken 500, stall 250. The time between two lines passes in ticks of 50 ms,
//! before a `pause` in one.

use super::*;

fn check(table: &str) {
    let options = Options {
        silence_ms: 1_000,
        broken_ms: 500,
        stall_ms: 250,
    };
    let mut liveness = Liveness::new(options);
    let mut ticked_ms = 0;
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (input, expected) = line.split_once("--").expect("a line is: event -- effects");
        let words: Vec<&str> = input.split_whitespace().collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        let now_ms = number(0);
        let mut out = Vec::new();
        if words[1] == "pause" {
            ticked_ms = now_ms;
            liveness.step(now_ms, Event::Tick, &mut out);
        }
        while ticked_ms + 50 <= now_ms {
            ticked_ms += 50;
            liveness.step(ticked_ms, Event::Tick, &mut out);
        }
        match words[1] {
            "tick" | "pause" => {}
            "opened" => {
                liveness.step(
                    now_ms,
                    Event::Opened {
                        node: number(2),
                        incarnation: number(3),
                    },
                    &mut out,
                );
            }
            "closed" => {
                let event = Event::Closed {
                    node: number(2),
                    incarnation: number(3),
                    by_peer: words[4] == "by-peer",
                };
                liveness.step(now_ms, event, &mut out);
            }
            "refused" => liveness.step(now_ms, Event::Refused { node: number(2) }, &mut out),
            "heard" => {
                let event = Event::Heard {
                    node: number(2),
                    incarnation: number(3),
                    at_ms: now_ms,
                };
                liveness.step(now_ms, event, &mut out);
            }
            other => panic!("no such event: {other}"),
        }
        let said: Vec<String> = out
            .iter()
            .map(|effect| match effect {
                Effect::Changed(node, PeerState::Up { incarnation }) => format!("{node} up {incarnation}"),
                Effect::Changed(node, PeerState::Silent { incarnation }) => format!("{node} silent {incarnation}"),
                Effect::Changed(node, PeerState::Dead { incarnation }) => format!("{node} dead {incarnation}"),
                Effect::Replaced(node) => format!("{node} replaced"),
            })
            .collect();
        assert_eq!(said.join(", "), expected.trim(), "after: {line}");
    }
}

#[test]
fn a_peer_that_says_nothing_is_silent_until_it_is_heard() {
    check(
        "0    opened 2 7   -- 2 up 7
         900  heard 2 7    --
         1900 tick         --
         2000 tick         -- 2 silent 7
         2010 heard 2 7    --
         2050 tick         -- 2 up 7",
    );
}

#[test]
fn a_killed_process_is_dead_at_once() {
    check(
        "0    opened 2 7           -- 2 up 7
         0    opened 2 7           --
         100  closed 2 7 by-peer   --
         101  closed 2 7 by-peer   --
         102  refused 2            -- 2 dead 7
         110  refused 2            --
         2000 tick                 --
         3000 opened 2 8           -- 2 replaced, 2 up 8",
    );
}

#[test]
fn a_refusal_kills_nobody_who_still_has_a_stream() {
    check(
        "0    opened 2 7           -- 2 up 7
         0    opened 2 7           --
         100  closed 2 7 by-peer   --
         102  refused 2            --
         103  closed 2 7 by-peer   --
         123  refused 2            -- 2 dead 7",
    );
}

#[test]
fn a_refusal_after_our_own_timeout_proves_nothing() {
    check(
        "0    opened 2 7           -- 2 up 7
         100  closed 2 7 by-us     --
         102  refused 2            --
         550  tick                 --
         700  tick                 -- 2 silent 7
         800  refused 2            --
         900  opened 2 7           -- 2 up 7",
    );
}

#[test]
fn a_broken_peer_is_silent_sooner_and_up_when_it_is_back() {
    check(
        "0    opened 2 7           -- 2 up 7
         1000 heard 2 7            --
         1000 closed 2 7 by-peer   --
         1500 tick                 --
         1600 tick                 -- 2 silent 7
         1700 opened 2 7           -- 2 up 7
         2600 tick                 --",
    );
}

#[test]
fn a_break_that_heals_in_time_is_not_seen() {
    check(
        "0    opened 2 7           -- 2 up 7
         400  closed 2 7 by-peer   --
         800  tick                 --
         850  opened 2 7           --
         1800 tick                 --
         1900 tick                 -- 2 silent 7",
    );
}

#[test]
fn a_newer_run_buries_the_one_before() {
    check(
        "0    opened 2 7           -- 2 up 7
         0    opened 2 7           --
         100  opened 2 8           -- 2 dead 7, 2 replaced, 2 up 8
         101  closed 2 7 by-peer   --
         102  closed 2 7 by-peer   --
         103  refused 2            --
         104  heard 2 7            --
         105  opened 2 7           --
         200  closed 2 8 by-peer   --
         201  refused 2            -- 2 dead 8",
    );
}

#[test]
fn a_run_that_was_buried_too_early_is_up_again() {
    check(
        "0    opened 2 7           -- 2 up 7
         100  closed 2 7 by-peer   --
         101  refused 2            -- 2 dead 7
         200  opened 2 7           -- 2 up 7",
    );
}

#[test]
fn our_own_pause_makes_nobody_silent() {
    check(
        "0     opened 2 7   -- 2 up 7
         100   tick         --
         60100 pause        --
         61000 tick         --
         61150 tick         -- 2 silent 7
         62000 heard 2 7    --
         62050 tick         -- 2 up 7",
    );
}

#[test]
fn peers_are_told_apart() {
    check(
        "0    opened 2 7           -- 2 up 7
         0    opened 3 9           -- 3 up 9
         0    refused 4            --
         0    heard 4 1            --
         900  heard 3 9            --
         1100 tick                 -- 2 silent 7
         1200 closed 3 9 by-peer   --
         1201 refused 3            -- 3 dead 9",
    );
}

#[test]
fn a_stale_run_is_not_admitted() {
    let mut liveness = Liveness::new(Options {
        silence_ms: 1_000,
        broken_ms: 500,
        stall_ms: 250,
    });
    assert_eq!(liveness.admit(2, 1), Ok(()));
    liveness.step(
        0,
        Event::Opened {
            node: 2,
            incarnation: 7,
        },
        &mut Vec::new(),
    );
    assert_eq!(liveness.admit(2, 6), Err(Stale { claimed: 6, seen: 7 }));
    assert_eq!(liveness.admit(2, 7), Ok(()));
    assert_eq!(liveness.admit(2, 8), Ok(()));
    assert_eq!(
        liveness.states().collect::<Vec<_>>(),
        [(2, PeerState::Up { incarnation: 7 })]
    );
}
