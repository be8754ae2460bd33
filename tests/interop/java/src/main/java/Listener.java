import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.springframework.amqp.AmqpException;
import org.springframework.amqp.core.Binding;
import org.springframework.amqp.core.BindingBuilder;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.core.MessageBuilder;
import org.springframework.amqp.core.Queue;
import org.springframework.amqp.core.QueueBuilder;
import org.springframework.amqp.core.TopicExchange;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.connection.CorrelationData;
import org.springframework.amqp.rabbit.core.RabbitAdmin;
import org.springframework.amqp.rabbit.core.RabbitTemplate;
import org.springframework.amqp.rabbit.listener.SimpleMessageListenerContainer;
import org.springframework.context.support.GenericApplicationContext;

/**
 * A listener container of Spring: it declares what it needs, retries by way of dead letters and a time to live, parks what
 * fails too often, starts its consumers again when their queue or their node is gone, and answers requests.
 */
public class Listener {
    private static final String NAME = "interop." + System.getenv("RUN_ID") + ".spring";
    private static final int ATTEMPTS = 3;

    private static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    private static void await(Condition condition, String what) throws Exception {
        for (long until = System.nanoTime() + 30_000_000_000L; !condition.holds(); Thread.sleep(20)) {
            check(System.nanoTime() < until, what);
        }
    }

    private static Message message(String body) {
        return MessageBuilder.withBody(body.getBytes(StandardCharsets.UTF_8)).build();
    }

    /** Publishes until it is confirmed, as often as the connection is lost meanwhile. */
    private static void publish(RabbitTemplate template, String key, String body) throws Exception {
        for (long until = System.nanoTime() + 30_000_000_000L;;) {
            try {
                CorrelationData data = new CorrelationData(body);
                template.send(NAME, key, message(body), data);
                if (data.getFuture().get(5, TimeUnit.SECONDS).isAck()) {
                    check(data.getReturned() == null, body + " came back");
                    return;
                }
            } catch (AmqpException | java.util.concurrent.TimeoutException lost) {
                check(System.nanoTime() < until, "not confirmed: " + body);
            }
            Thread.sleep(50);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String[] urls = System.getenv("AMQP_URLS").split(",");
        StringBuilder addresses = new StringBuilder();
        for (String url : urls) {
            addresses.append(addresses.isEmpty() ? "" : ",").append(url.replaceAll("^.*@", "").replaceAll("/.*$", ""));
        }
        CachingConnectionFactory factory = new CachingConnectionFactory();
        factory.setAddresses(addresses.toString());
        factory.setAddressShuffleMode(org.springframework.amqp.rabbit.connection.AbstractConnectionFactory.AddressShuffleMode.NONE);
        factory.setPublisherConfirmType(CachingConnectionFactory.ConfirmType.CORRELATED);
        factory.setPublisherReturns(true);
        RabbitTemplate template = new RabbitTemplate(factory);
        template.setMandatory(true);
        template.setReplyTimeout(20_000);

        // Declared whenever a connection is made.
        GenericApplicationContext context = new GenericApplicationContext();
        Queue work = QueueBuilder.durable(NAME + ".work").quorum()
            .withArguments(Map.of("x-dead-letter-exchange", NAME, "x-dead-letter-routing-key", "retry")).build();
        Queue retry = QueueBuilder.durable(NAME + ".retry").ttl(200).deadLetterExchange(NAME).deadLetterRoutingKey("work").build();
        Queue parked = QueueBuilder.durable(NAME + ".parked").build();
        Queue requests = QueueBuilder.nonDurable(NAME + ".requests").autoDelete().build();
        TopicExchange exchange = new TopicExchange(NAME);
        context.registerBean("exchange", TopicExchange.class, () -> exchange);
        for (Map.Entry<String, Queue> entry : Map.of("work", work, "retry", retry, "parked", parked, "requests", requests).entrySet()) {
            context.registerBean(entry.getKey(), Queue.class, entry::getValue);
            context.registerBean(entry.getKey() + ".binding", Binding.class,
                () -> BindingBuilder.bind(entry.getValue()).to(exchange).with(entry.getKey()));
        }
        context.refresh();
        RabbitAdmin admin = new RabbitAdmin(factory);
        admin.setApplicationContext(context);
        admin.afterPropertiesSet();

        Set<String> done = ConcurrentHashMap.newKeySet();
        BlockingQueue<String> failures = new LinkedBlockingQueue<>();
        AtomicInteger attempts = new AtomicInteger();
        SimpleMessageListenerContainer container = new SimpleMessageListenerContainer(factory);
        container.setQueueNames(work.getName());
        container.setConcurrentConsumers(3);
        container.setPrefetchCount(10);
        container.setDefaultRequeueRejected(false);
        container.setRecoveryInterval(200);
        container.setDeclarationRetries(100);
        container.setFailedDeclarationRetryInterval(200);
        container.setAmqpAdmin(admin);
        container.setApplicationContext(context);
        container.setErrorHandler(failure -> {
            throw new org.springframework.amqp.AmqpRejectAndDontRequeueException("fails", failure);
        });
        container.setMessageListener(received -> {
            String body = new String(received.getBody(), StandardCharsets.UTF_8);
            if (!body.startsWith("bad")) {
                done.add(body);
                return;
            }
            attempts.incrementAndGet();
            List<Map<String, ?>> deaths = received.getMessageProperties().getXDeathHeader();
            long died = deaths == null ? 0 : deaths.stream().filter(death -> "rejected".equals(death.get("reason")))
                .mapToLong(death -> (Long) death.get("count")).sum();
            if (died + 1 < ATTEMPTS) {
                throw new IllegalStateException("attempt " + died);
            }
            failures.add(body);
            template.send(NAME, "parked", received);
        });
        container.afterPropertiesSet();
        container.start();

        SimpleMessageListenerContainer server = new SimpleMessageListenerContainer(factory);
        server.setQueueNames(requests.getName());
        server.setAmqpAdmin(admin);
        server.setRecoveryInterval(200);
        server.setMessageListener(request -> {
            Message reply = MessageBuilder.withBody(request.getBody())
                .setCorrelationId(request.getMessageProperties().getCorrelationId()).build();
            template.send("", request.getMessageProperties().getReplyTo(), reply);
        });
        server.afterPropertiesSet();
        server.start();

        publish(template, "work", "bad one");
        for (int number = 0; number < 100; number++) {
            publish(template, "work", "first " + number);
        }
        await(() -> done.size() == 100, "100 messages were handled");
        check("bad one".equals(failures.poll(30, TimeUnit.SECONDS)), "the bad message is given up");
        check(attempts.get() == ATTEMPTS, "attempts: " + attempts);
        await(() -> template.receive(parked.getName()) != null, "the bad message is parked");
        Message answer = template.sendAndReceive(NAME, "requests", message("question"));
        check(answer != null && "question".equals(new String(answer.getBody(), StandardCharsets.UTF_8)), "an answer");

        // The queue is deleted under its consumers: they are told, declare it again and go on.
        admin.deleteQueue(work.getName());
        await(() -> admin.getQueueInfo(work.getName()) != null && admin.getQueueInfo(work.getName()).getConsumerCount() == 3,
            "the consumers are back");
        publish(template, "work", "after the queue");
        await(() -> done.contains("after the queue"), "a message after the queue was deleted");

        if (arguments.length > 0 && arguments[0].equals("recover")) {
            System.out.println("ready");
            // The node that all of this is connected to, and that leads these queues, is killed meanwhile.
            BlockingQueue<Boolean> killed = new LinkedBlockingQueue<>();
            factory.addConnectionListener(new org.springframework.amqp.rabbit.connection.ConnectionListener() {
                @Override
                public void onCreate(org.springframework.amqp.rabbit.connection.Connection connection) {
                    killed.add(true);
                }
            });
            int number = 0;
            for (int after = 0; after < 100; number++) {
                publish(template, "work", "second " + number);
                after += after > 0 || killed.poll() != null ? 1 : 0;
                if (after == 1) {
                    System.out.println("recovered");
                }
            }
            for (int expected = 0; expected < number; expected++) {
                String body = "second " + expected;
                await(() -> done.contains(body), body);
            }
            answer = template.sendAndReceive(NAME, "requests", message("again"));
            check(answer != null, "an answer after the recovery");
            System.out.println("done " + number);
        }
        server.stop();
        container.stop();
        for (Queue queue : List.of(work, retry, parked, requests)) {
            admin.deleteQueue(queue.getName());
        }
        admin.deleteExchange(NAME);
        factory.destroy();
        System.exit(0);
    }
}
