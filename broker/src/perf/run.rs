//! A run from the first connection to the report.

use std::{sync::Arc, time::Duration};

use tokio::{
    signal::ctrl_c,
    sync::oneshot,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    Error,
    connection::{Connection, Stop},
    consumer::Consumer,
    latency::Latencies,
    meter::{Meter, Totals, now_ns},
    options::Options,
    process::Cpu,
    publisher::Publisher,
    report::{Report, Setup, Span, grouped, ms},
    uri::Uri,
    window::Window,
    wire::{CHANNEL, Template},
};
use crate::amqp::{Method, ShortStr, Table, Value};

/// How often a run looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// A drain is over when nothing has come for so long and the queues say that they are empty.
const DRAINED_AFTER_NS: u64 = 1_000_000_000;

/// Routing keys that a publisher to a topic exchange uses in turn, at most: more than a broker is likely to remember
/// the routes of.
const TOPIC_KEYS_MAX: u32 = 10_000;

/// Bindings asked for before their answers are awaited.
const BINDINGS_AT_ONCE: u32 = 100;

/// Runs as [`Options::checked`] has it.
pub async fn run(options: &Options) -> Result<Report, Error> {
    let mut control = Connection::open(&options.uri[0], options.stall()).await?;
    let waiting = declare(&mut control, options).await?;
    let mut run = Run {
        options,
        waiting,
        meters: Vec::new(),
        tasks: JoinSet::new(),
        stop_publishers: Vec::new(),
        stop_consumers: Vec::new(),
    };
    let measured = run.perform(&mut control).await?;
    let report = run.report(&measured, control.server.clone());
    if options.delete {
        delete(&mut control, options).await?;
    }
    control.close().await?;
    Ok(report)
}

struct Run<'a> {
    options: &'a Options,
    /// Messages that were in the queues before.
    waiting: u64,
    meters: Vec<Arc<Meter>>,
    tasks: JoinSet<Result<(), Error>>,
    stop_publishers: Vec<oneshot::Sender<()>>,
    stop_consumers: Vec<oneshot::Sender<()>>,
}

/// A span being measured, and what its processor time was at the beginning.
struct Begun {
    from_ns: u64,
    from: Totals,
    cpu: Cpu,
}

struct Measured {
    span: Span,
    cpu: Cpu,
}

impl Run<'_> {
    async fn perform(&mut self, control: &mut Connection) -> Result<Measured, Error> {
        let options = self.options;
        let mut begun = self.begin();
        let publishers = self.connect_publishers().await?;
        self.start_consumers().await?;
        if !options.drain {
            begun = self.begin();
        }
        for publisher in publishers {
            self.tasks.spawn(publisher.run());
        }

        let mut progress = Progress::new(options);
        let is_open_ended = options.drain || options.messages.is_some();
        let mut to = None;
        if is_open_ended {
            self.until_done(control, &mut progress).await?;
        } else {
            let start = Instant::now();
            if options.warmup > 0.0 {
                let end = start + Duration::from_secs_f64(options.warmup);
                self.until(end, &mut progress).await?;
                begun = self.begin();
            }
            let end = Instant::now() + Duration::from_secs_f64(options.seconds);
            self.until(end, &mut progress).await?;
            to = Some((now_ns(), self.totals(), self.cpu()));
        }
        // Dropping them tells the tasks.
        self.stop_publishers.clear();
        self.join(self.stop_consumers.len(), &mut progress).await?;
        self.stop_consumers.clear();
        self.join(0, &mut progress).await?;

        let (to_ns, to, cpu) = to.unwrap_or_else(|| (now_ns(), self.totals(), self.cpu()));
        Ok(Measured {
            span: Span {
                from_ns: begun.from_ns,
                to_ns,
                from: begun.from,
                to,
                is_open_ended,
            },
            cpu: cpu.since(begun.cpu),
        })
    }

    fn begin(&self) -> Begun {
        let from_ns = now_ns();
        for meter in &self.meters {
            meter.confirm_latencies.begin(from_ns);
            meter.deliver_latencies.begin(from_ns);
        }
        Begun {
            from_ns,
            from: self.totals(),
            cpu: self.cpu(),
        }
    }

    fn totals(&self) -> Totals {
        Totals::of(self.meters.iter().map(Arc::as_ref))
    }

    fn cpu(&self) -> Cpu {
        Cpu::now(&self.options.watch)
    }

    fn meter(&mut self) -> Arc<Meter> {
        let meter = Arc::new(Meter::default());
        self.meters.push(meter.clone());
        meter
    }

    fn uri(&self, index: u32) -> &Uri {
        &self.options.uri[index as usize % self.options.uri.len()]
    }

    async fn connect_publishers(&mut self) -> Result<Vec<Publisher>, Error> {
        let options = self.options;
        let mut publishers = Vec::new();
        for index in 0..options.publishers {
            let mut connection = Connection::open(self.uri(index), options.stall()).await?;
            if options.confirm > 0 {
                let no_wait = false;
                expect(
                    connection.call(&Method::ConfirmSelect { no_wait }).await?,
                    "confirm.select-ok",
                )?;
            }
            let exchange = name(&options.exchange_name())?;
            let mut templates = Vec::new();
            for key in routing_keys(options, index) {
                templates.push(Template::new(
                    exchange.clone(),
                    name(&key)?,
                    options.persistent,
                    options.size,
                    connection.frame_max,
                ));
            }
            let (stop_tx, stop_rx) = oneshot::channel();
            self.stop_publishers.push(stop_tx);
            publishers.push(Publisher {
                connection,
                templates,
                left: options.messages.map(|messages| options.share_of(messages, index)),
                window: (options.confirm > 0).then(|| Window::new(options.confirm)),
                rate: options.rate.map(|rate| rate / f64::from(options.publishers)),
                meter: self.meter(),
                stop: Stop::new(stop_rx),
            });
        }
        Ok(publishers)
    }

    /// Returns when the server has accepted all consumers.
    async fn start_consumers(&mut self) -> Result<(), Error> {
        let options = self.options;
        let mut ready = Vec::new();
        for index in 0..options.consumers {
            let uri = self.uri(options.publishers + index);
            let mut connection = Connection::open(uri, options.stall()).await?;
            if options.prefetch > 0 {
                let qos = Method::BasicQos {
                    prefetch_size: 0,
                    prefetch_count: options.prefetch,
                    global: false,
                };
                expect(connection.call(&qos).await?, "basic.qos-ok")?;
            }
            let queues = options.queues_of(index, options.consumers);
            for &queue in &queues {
                // Their answers come among the first deliveries, so it is the consumer that awaits them.
                connection.output.put(
                    CHANNEL,
                    &Method::BasicConsume {
                        queue: name(&options.queue_name(queue))?,
                        consumer_tag: ShortStr::empty(),
                        no_local: false,
                        no_ack: options.no_ack,
                        exclusive: false,
                        no_wait: false,
                        arguments: Table::new(),
                    },
                );
            }
            let (stop_tx, stop_rx) = oneshot::channel();
            let (ready_tx, ready_rx) = oneshot::channel();
            self.stop_consumers.push(stop_tx);
            ready.push(ready_rx);
            let consumer = Consumer {
                connection,
                asked: queues.len(),
                ack_every: (!options.no_ack).then_some(options.ack_every),
                is_stamped: options.is_stamped() && !options.drain,
                meter: self.meter(),
                ready: Some(ready_tx),
                stop: Stop::new(stop_rx),
            };
            self.tasks.spawn(consumer.run());
        }
        for ready in ready {
            tokio::select! {
                biased;
                _ = ready => {}
                () = sleep_until(Instant::now() + options.stall()) => {
                    return Err(self.stalled("the server has not answered basic.consume"));
                }
            }
            // One that failed has dropped its end, and says why.
            while let Some(result) = self.tasks.try_join_next() {
                result.unwrap_or_else(|error| Err(Error::Task(error.to_string())))?;
            }
        }
        Ok(())
    }

    /// Lets the tasks run until then, or an interrupt from the terminal.
    async fn until(&mut self, end: Instant, progress: &mut Progress) -> Result<(), Error> {
        loop {
            tokio::select! {
                () = sleep_until(end) => return Ok(()),
                _ = ctrl_c() => return Ok(()),
                _ = progress.ticks.tick() => self.look(progress, None)?,
                Some(ended) = self.tasks.join_next() => {
                    ended.unwrap_or_else(|error| Err(Error::Task(error.to_string())))?;
                }
            }
        }
    }

    /// Lets the tasks run until all that was asked for is published and consumed, or the queues are empty.
    async fn until_done(&mut self, control: &mut Connection, progress: &mut Progress) -> Result<(), Error> {
        let options = self.options;
        let consumers = self.stop_consumers.len();
        loop {
            let totals = self.totals();
            let is_consumed = if options.drain {
                totals.consumed.count >= self.waiting
            } else {
                let due = options.messages.unwrap_or(0) * options.copies() + self.waiting;
                consumers == 0 || totals.consumed.count >= due
            };
            if is_consumed && self.tasks.len() <= consumers {
                return Ok(());
            }
            if options.drain
                && progress.moved_ns.max(totals.consumed.last_ns) + DRAINED_AFTER_NS < now_ns()
                && ready_count(control, options).await? == 0
            {
                // Somebody else consumed the rest.
                return Ok(());
            }
            tokio::select! {
                () = sleep_until(Instant::now() + LOOK) => {}
                _ = ctrl_c() => return Ok(()),
                _ = progress.ticks.tick() => self.look(progress, Some("messages to be consumed or confirmed"))?,
                Some(ended) = self.tasks.join_next() => {
                    ended.unwrap_or_else(|error| Err(Error::Task(error.to_string())))?;
                }
            }
        }
    }

    /// Waits until no more than `left` tasks run.
    async fn join(&mut self, left: usize, progress: &mut Progress) -> Result<(), Error> {
        while self.tasks.len() > left {
            tokio::select! {
                _ = progress.ticks.tick() => self.look(progress, Some("the last confirms and the closing of connections"))?,
                Some(ended) = self.tasks.join_next() => {
                    ended.unwrap_or_else(|error| Err(Error::Task(error.to_string())))?;
                }
            }
        }
        Ok(())
    }

    /// Once a second: a line of progress, and whether there is any. `None` if it may stand still.
    fn look(&self, progress: &mut Progress, waiting: Option<&str>) -> Result<(), Error> {
        let totals = self.totals();
        if totals != progress.totals || waiting.is_none() {
            progress.moved_ns = now_ns();
        }
        if let Some(waiting) = waiting
            && now_ns().saturating_sub(progress.moved_ns) > self.options.stall().as_nanos() as u64
        {
            return Err(self.stalled(waiting));
        }
        progress.line(&totals, self.options, &self.latencies());
        Ok(())
    }

    fn stalled(&self, waiting: &str) -> Error {
        let totals = self.totals();
        Error::Stalled {
            seconds: self.options.stall,
            waiting: format!(
                "{waiting}; {} published, {} confirmed, {} consumed",
                totals.published.count, totals.confirmed.count, totals.consumed.count
            ),
        }
    }

    fn latencies(&self) -> (Latencies, Latencies) {
        let (mut confirm, mut deliver) = (Latencies::new(), Latencies::new());
        for meter in &self.meters {
            meter.confirm_latencies.add_to(&mut confirm);
            meter.deliver_latencies.add_to(&mut deliver);
        }
        (confirm, deliver)
    }

    fn report(&self, measured: &Measured, server: String) -> Report {
        let span = &measured.span;
        let (confirm, deliver) = self.latencies();
        let published = span.rate(|totals| totals.published);
        let consumed = span.rate(|totals| totals.consumed);
        let per_message = |cpu_s: Option<f64>, messages: u64| {
            let us = cpu_s? * 1e6 / messages as f64;
            us.is_finite().then_some(us)
        };
        let Cpu { own, watched } = measured.cpu;
        let passed = if published.count > 0 {
            published.count
        } else {
            consumed.count
        };
        Report {
            server,
            setup: Setup::of(self.options),
            seconds: (span.to_ns - span.from_ns) as f64 / 1e9,
            published,
            confirmed: span.rate(|totals| totals.confirmed),
            consumed,
            nacked: span.rate(|totals| totals.nacked).count,
            unconfirmed: self.totals().unconfirmed as u64,
            redelivered: span.rate(|totals| totals.redelivered).count,
            confirm_latency: confirm.summary(),
            deliver_latency: deliver.summary(),
            cpu_s: own,
            cpu_us_per_message: per_message(own, published.count + consumed.count),
            watched_cpu_s: watched,
            watched_cpu_us_per_message: per_message(watched, passed),
        }
    }
}

/// The line that is written each second, and what it compares with.
struct Progress {
    ticks: tokio::time::Interval,
    begin: Instant,
    at: Instant,
    totals: Totals,
    /// When something was last counted.
    moved_ns: u64,
    is_quiet: bool,
}

impl Progress {
    fn new(options: &Options) -> Self {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let now = Instant::now();
        Self {
            ticks,
            begin: now,
            at: now,
            totals: Totals::default(),
            moved_ns: now_ns(),
            is_quiet: options.quiet,
        }
    }

    fn line(&mut self, totals: &Totals, options: &Options, latencies: &(Latencies, Latencies)) {
        let now = Instant::now();
        let seconds = (now - self.at).as_secs_f64();
        let per_s = |to: u64, from: u64| grouped(((to - from) as f64 / seconds).round() as u64);
        if !self.is_quiet && seconds > 0.0 {
            let mut line = format!("{:>4.0} s", (now - self.begin).as_secs_f64());
            for (name, is_shown, to, from) in [
                (
                    "published",
                    options.publishers > 0,
                    totals.published,
                    self.totals.published,
                ),
                (
                    "confirmed",
                    options.publishers > 0 && options.confirm > 0,
                    totals.confirmed,
                    self.totals.confirmed,
                ),
                ("consumed", options.consumers > 0, totals.consumed, self.totals.consumed),
            ] {
                if is_shown {
                    line.push_str(&format!("  {name} {}/s", per_s(to.count, from.count)));
                }
            }
            for (name, latencies) in [("confirm", &latencies.0), ("deliver", &latencies.1)] {
                if let Some(summary) = latencies.summary() {
                    line.push_str(&format!("  {name} p50 {} ms", ms(summary.p50)));
                }
            }
            eprintln!("{line}");
        }
        self.at = now;
        self.totals = *totals;
    }
}

/// The routing keys that publisher `index` uses in turn.
fn routing_keys(options: &Options, index: u32) -> Vec<String> {
    match options.topic_bindings {
        Some(bindings) => {
            let keys = bindings.min(TOPIC_KEYS_MAX);
            // Spread over all bindings, whatever order the broker keeps them in.
            (0..keys)
                .map(|key| format!("perf.{}.event", u64::from(key) * u64::from(bindings) / u64::from(keys)))
                .collect()
        }
        None => options
            .queues_of(index, options.publishers)
            .into_iter()
            .map(|queue| options.queue_name(queue))
            .collect(),
    }
}

fn name(text: &str) -> Result<ShortStr, Error> {
    ShortStr::new(text).map_err(|error| Error::Usage(error.to_string()))
}

fn expect(answer: Method, wanted: &str) -> Result<(), Error> {
    if answer.name() == wanted {
        Ok(())
    } else {
        Err(Error::Unexpected(answer.name()))
    }
}

/// Declares and binds what the run uses; returns how many messages wait there already.
async fn declare(control: &mut Connection, options: &Options) -> Result<u64, Error> {
    let durable = !options.transient;
    let exchange = options.exchange_name();
    if !exchange.is_empty() {
        let kind = if options.fanout { "fanout" } else { "topic" };
        let declare = Method::ExchangeDeclare {
            exchange: name(&exchange)?,
            kind: kind.into(),
            passive: false,
            durable,
            auto_delete: false,
            internal: false,
            no_wait: false,
            arguments: Table::new(),
        };
        expect(control.call(&declare).await?, "exchange.declare-ok")?;
    }
    let waiting = declare_queues(control, options, options.drain).await?;
    if options.fanout {
        for queue in 0..options.queues {
            expect(control.call(&bind(options, queue, "")?).await?, "queue.bind-ok")?;
        }
    }
    let bindings = options.topic_bindings.unwrap_or(0);
    for first in (0..bindings).step_by(BINDINGS_AT_ONCE as usize) {
        let batch = first..bindings.min(first.saturating_add(BINDINGS_AT_ONCE));
        for index in batch.clone() {
            // Words, one wildcard and the other in turn.
            let last = ["event", "*", "#"][index as usize % 3];
            let method = bind(options, index % options.queues, &format!("perf.{index}.{last}"))?;
            control.output.put(CHANNEL, &method);
        }
        for _ in batch {
            expect(control.answer().await?, "queue.bind-ok")?;
        }
    }
    Ok(waiting)
}

fn bind(options: &Options, queue: u32, routing_key: &str) -> Result<Method, Error> {
    Ok(Method::QueueBind {
        queue: name(&options.queue_name(queue))?,
        exchange: name(&options.exchange_name())?,
        routing_key: name(routing_key)?,
        no_wait: false,
        arguments: Table::new(),
    })
}

/// Returns how many messages wait in them. `passive` only asks.
async fn declare_queues(control: &mut Connection, options: &Options, passive: bool) -> Result<u64, Error> {
    let mut arguments = Table::new();
    if let Some(kind) = options.queue_type {
        arguments.insert("x-queue-type", Value::LongStr(kind.as_str().into()));
    }
    let mut waiting = 0;
    for queue in 0..options.queues {
        let declare = Method::QueueDeclare {
            queue: name(&options.queue_name(queue))?,
            passive,
            durable: !options.transient,
            exclusive: false,
            auto_delete: false,
            no_wait: false,
            arguments: arguments.clone(),
        };
        match control.call(&declare).await? {
            Method::QueueDeclareOk { message_count, .. } => waiting += u64::from(message_count),
            other => return Err(Error::Unexpected(other.name())),
        }
    }
    Ok(waiting)
}

async fn ready_count(control: &mut Connection, options: &Options) -> Result<u64, Error> {
    declare_queues(control, options, true).await
}

async fn delete(control: &mut Connection, options: &Options) -> Result<(), Error> {
    for queue in 0..options.queues {
        let delete = Method::QueueDelete {
            queue: name(&options.queue_name(queue))?,
            if_unused: false,
            if_empty: false,
            no_wait: false,
        };
        expect(control.call(&delete).await?, "queue.delete-ok")?;
    }
    let exchange = options.exchange_name();
    if !exchange.is_empty() {
        let delete = Method::ExchangeDelete {
            exchange: name(&exchange)?,
            if_unused: false,
            no_wait: false,
        };
        expect(control.call(&delete).await?, "exchange.delete-ok")?;
    }
    Ok(())
}
