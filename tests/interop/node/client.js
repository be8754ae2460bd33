// amqplib: declare, publish with confirms, consume with acknowledgements, route, ask and answer, err, close.
'use strict';

const assert = require('node:assert/strict');
const { randomUUID } = require('node:crypto');
const { readFileSync } = require('node:fs');
const amqp = require('amqplib');

const urls = process.env.AMQP_URLS.split(',');
const url = (node) => urls[node % urls.length];
const name = (label) => `interop.${process.env.RUN_ID}.${label}`;
const PROPERTIES = {
  contentType: 'application/json',
  contentEncoding: 'utf-8',
  headers: { text: 'value', int: 7, big: 2 ** 40, float: 1.5, yes: true, none: null, table: { inner: [1, 'two', { three: 3 }] } },
  deliveryMode: 2,
  priority: 5,
  correlationId: 'correlation',
  replyTo: 'somewhere',
  expiration: '600000',
  messageId: 'message-1',
  timestamp: 1700000000,
  type: 'kind',
  userId: 'guest',
  appId: 'interop',
};

// Collects deliveries and hands them out one by one.
async function consumer(channel, queue, options) {
  const waiting = [];
  const arrived = [];
  const { consumerTag } = await channel.consume(queue, (message) => {
    if (waiting.length) waiting.shift()(message);
    else arrived.push(message);
  }, options);
  const next = () => (arrived.length ? Promise.resolve(arrived.shift()) : new Promise((resolve) => waiting.push(resolve)));
  return { next, consumerTag };
}

async function work(publisher, receiver) {
  const sending = await publisher.createConfirmChannel();
  const receiving = await receiver.createChannel();
  const queue = name('node.work');
  assert.deepEqual(await sending.assertQueue(queue, { durable: true }), { queue, messageCount: 0, consumerCount: 0 });
  await receiving.prefetch(2);
  const { next, consumerTag } = await consumer(receiving, queue);
  for (let number = 0; number < 20; number += 1) sending.sendToQueue(queue, Buffer.from(`body ${number}`), PROPERTIES);
  await sending.waitForConfirms();
  for (let number = 0; number < 20; number += 1) {
    const message = await next();
    assert.equal(message.content.toString(), `body ${number}`);
    for (const [key, value] of Object.entries(PROPERTIES)) assert.deepEqual(message.properties[key], value, key);
    assert.equal(message.fields.redelivered, false);
    receiving.ack(message);
  }
  const big = Buffer.alloc(1 << 20, 'x');
  sending.sendToQueue(queue, big);
  const message = await next();
  assert.ok(message.content.equals(big));
  receiving.nack(message);
  const again = await next();
  assert.equal(again.fields.redelivered, true);
  receiving.ack(again);
  await receiving.cancel(consumerTag);

  const returned = new Promise((resolve) => sending.once('return', resolve));
  sending.publish('', name('nowhere'), Buffer.from('unroutable'), { mandatory: true });
  await sending.waitForConfirms();
  assert.equal((await returned).fields.replyText, 'NO_ROUTE');

  sending.sendToQueue(queue, Buffer.from('got'));
  await sending.waitForConfirms();
  const got = await receiving.get(queue, { noAck: true });
  assert.equal(got.content.toString(), 'got');
  assert.equal(await receiving.get(queue), false);
  assert.deepEqual(await receiving.deleteQueue(queue), { messageCount: 0 });
}

async function routing(publisher, receiver) {
  const sending = await publisher.createConfirmChannel();
  const receiving = await receiver.createChannel();
  const [topic, fanout] = [name('node.topic'), name('node.fanout')];
  await receiving.assertExchange(topic, 'topic');
  await receiving.assertExchange(fanout, 'fanout', { autoDelete: true });
  await receiving.bindExchange(fanout, topic, '#');
  const narrow = (await receiving.assertQueue('', { exclusive: true })).queue;
  const wide = (await receiving.assertQueue('', { exclusive: true })).queue;
  await receiving.bindQueue(narrow, topic, '*.orange.*');
  await receiving.bindQueue(wide, fanout, '');
  for (const key of ['quick.orange.rabbit', 'lazy.pink.rabbit']) sending.publish(topic, key, Buffer.from(key));
  await sending.waitForConfirms();
  const [few, all] = [await consumer(receiving, narrow, { noAck: true }), await consumer(receiving, wide, { noAck: true })];
  assert.equal((await all.next()).fields.routingKey, 'quick.orange.rabbit');
  assert.equal((await all.next()).fields.routingKey, 'lazy.pink.rabbit');
  assert.equal((await few.next()).fields.routingKey, 'quick.orange.rabbit');
  assert.equal((await receiving.checkQueue(narrow)).messageCount, 0);
  await receiving.deleteExchange(topic);
}

// By a queue of one's own, or by direct reply-to.
async function rpc(publisher, receiver, direct) {
  const server = await publisher.createChannel();
  const client = await receiver.createChannel();
  const { queue } = await server.assertQueue(name('node.rpc'), { durable: false, autoDelete: true });
  await server.consume(queue, (request) => {
    const answer = Buffer.from(String(2 * Number(request.content)));
    server.sendToQueue(request.properties.replyTo, answer, { correlationId: request.properties.correlationId });
    server.ack(request);
  });
  const replyTo = direct ? 'amq.rabbitmq.reply-to' : (await client.assertQueue('', { exclusive: true })).queue;
  const { next } = await consumer(client, replyTo, { noAck: true });
  for (let number = 0; number < 10; number += 1) {
    const correlationId = randomUUID();
    client.sendToQueue(queue, Buffer.from(String(number)), { correlationId, replyTo });
    const answer = await next();
    assert.equal(answer.content.toString(), String(2 * number));
    assert.equal(answer.properties.correlationId, correlationId);
  }
}

async function streams(publisher, receiver) {
  const queue = name('node.stream');
  const sending = await publisher.createConfirmChannel();
  await sending.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'stream', 'x-max-age': '1h' } });
  for (let number = 0; number < 50; number += 1) sending.sendToQueue(queue, Buffer.from(String(number)));
  await sending.waitForConfirms();
  for (const [offset, first] of [['first', 0], [20, 20], ['1h', 0]]) {
    const receiving = await receiver.createChannel();
    await receiving.prefetch(5);
    const { next } = await consumer(receiving, queue, { arguments: { 'x-stream-offset': offset } });
    for (let number = first; number < 50; number += 1) {
      const message = await next();
      assert.equal(message.content.toString(), String(number));
      assert.equal(message.properties.headers['x-stream-offset'], number);
      receiving.ack(message);
    }
    await receiving.close();
  }
  await sending.deleteQueue(queue);
}

async function errors(publisher) {
  const attempts = [
    [404, (channel) => channel.checkQueue(name('node.missing'))],
    [406, (channel) => channel.assertExchange('amq.fanout', 'direct')],
    [403, (channel) => channel.assertQueue('amq.reserved')],
  ];
  for (const [code, attempt] of attempts) {
    const channel = await publisher.createChannel();
    channel.on('error', () => {});
    await assert.rejects(attempt(channel), (error) => error.code === code);
  }
  await assert.rejects(amqp.connect(url(0).replace(/:[^:@/]*@/, ':wrong@')), /ACCESS_REFUSED/);
}

// TLS with a password, then with a certificate alone.
async function tls() {
  const directory = process.env.WARREN_TEST_CERTIFICATES;
  const [ca, cert, key] = ['ca.pem', 'client.pem', 'client.key'].map((file) => readFileSync(`${directory}/${file}`));
  const endpoints = process.env.WARREN_TEST_AMQPS.split(',');
  const open = (node, login, options) => amqp.connect(`amqps://${login}${endpoints[node % endpoints.length]}`, { ca: [ca], ...options });
  const external = { cert, key, credentials: amqp.credentials.external() };
  for (const [login, options] of [['guest:guest@', {}], ['', external]]) {
    const publisher = await open(0, login, options);
    const receiver = await open(1, login, options);
    await work(publisher, receiver);
    await publisher.close();
    await receiver.close();
  }
  await assert.rejects(open(0, 'guest:wrong@', {}), /ACCESS_REFUSED/);
  await assert.rejects(amqp.connect(`amqps://guest:guest@${endpoints[0]}`), /certificate/);
}

// Reconnecting as applications do it: to the next node, declaring everything anew; what was not confirmed is published
// again. Ends when messages were published and received on a second connection, and nothing confirmed is missing.
async function recover(queue, exchange) {
  const received = new Set();
  const confirmed = [];
  let number = 0;
  let after = 0;
  for (let attempt = 0; after < 100; attempt += 1) {
    try {
      const connection = await amqp.connect(url(attempt));
      // The end shows in what is under way.
      connection.on('error', () => {});
      const receiving = await connection.createChannel();
      receiving.on('error', () => {});
      await receiving.assertExchange(exchange, 'topic');
      await receiving.assertQueue(queue, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
      await receiving.bindQueue(queue, exchange, 'k.*');
      await receiving.prefetch(10);
      await receiving.consume(queue, (message) => {
        received.add(message.content.toString());
        try {
          receiving.ack(message);
        } catch (closed) {
          // It comes again.
        }
      });
      const sending = await connection.createConfirmChannel();
      sending.on('error', () => {});
      const lost = new Promise((_, reject) => connection.once('close', () => reject(new Error('closed'))));
      lost.catch(() => {});
      while (after < 100) {
        const body = String(number);
        const confirm = new Promise((resolve, reject) => {
          sending.publish(exchange, 'k.x', Buffer.from(body), { persistent: true }, (error) => (error ? reject(error) : resolve()));
        });
        await Promise.race([confirm, lost]);
        confirmed.push(body);
        number += 1;
        if (attempt === 0 && number === 50) console.log('ready');
        if (attempt > 0) after += 1;
        if (after === 1) console.log('recovered');
      }
      const deadline = Date.now() + 20000;
      while (!confirmed.every((body) => received.has(body))) {
        assert.ok(Date.now() < deadline, `${received.size} of ${confirmed.length} arrived`);
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      await connection.close();
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  console.log(`done ${number}`);
}

async function main() {
  if (process.argv[2] === 'recover') return recover(process.argv[3], process.argv[4]);
  if (process.argv[2] === 'tls') return tls();
  const publisher = await amqp.connect(url(0));
  const receiver = await amqp.connect(url(1), { clientProperties: { connection_name: 'interop' } });
  if (process.argv[2] === 'direct-reply-to') {
    await rpc(publisher, receiver, true);
  } else {
    await work(publisher, receiver);
    await routing(publisher, receiver);
    await rpc(publisher, receiver, false);
    await streams(publisher, receiver);
    await errors(publisher);
  }
  await publisher.close();
  await receiver.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
