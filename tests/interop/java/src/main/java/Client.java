import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Address;
import com.rabbitmq.client.AlreadyClosedException;
import com.rabbitmq.client.BuiltinExchangeType;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DefaultSaslConfig;
import com.rabbitmq.client.Delivery;
import com.rabbitmq.client.ListAddressResolver;
import com.rabbitmq.client.MessageProperties;
import com.rabbitmq.client.Method;
import com.rabbitmq.client.Recoverable;
import com.rabbitmq.client.RecoveryListener;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Date;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/** The Java client: declare, publish with confirms, consume with acknowledgements, route, ask and answer, err, close. */
public class Client {
    private static final String[] URLS = System.getenv("AMQP_URLS").split(",");

    private static List<X509Certificate> certificates(Path file) throws Exception {
        List<X509Certificate> found = new ArrayList<>();
        for (Certificate one : CertificateFactory.getInstance("X.509").generateCertificates(new ByteArrayInputStream(Files.readAllBytes(file)))) {
            found.add((X509Certificate) one);
        }
        return found;
    }

    /** Believes the brokers' authority and shows the client's certificate. */
    private static SSLContext context() throws Exception {
        Path directory = Path.of(System.getenv("WARREN_TEST_CERTIFICATES"));
        KeyStore believed = KeyStore.getInstance(KeyStore.getDefaultType());
        believed.load(null, null);
        believed.setCertificateEntry("ca", certificates(directory.resolve("ca.pem")).get(0));
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(believed);
        String pem = Files.readString(directory.resolve("client.key")).replaceAll("-----[A-Z ]+-----", "");
        PrivateKey key = KeyFactory.getInstance("RSA").generatePrivate(new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(pem)));
        KeyStore own = KeyStore.getInstance(KeyStore.getDefaultType());
        own.load(null, null);
        own.setKeyEntry("client", key, new char[0], certificates(directory.resolve("client.pem")).toArray(new Certificate[0]));
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, new char[0]);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    /** With a password, then with the certificate alone. */
    private static void tls() throws Exception {
        String[] endpoints = System.getenv("WARREN_TEST_AMQPS").split(",");
        for (boolean external : new boolean[] {false, true}) {
            List<Connection> connections = new ArrayList<>();
            for (int node = 0; node < 2; node += 1) {
                String[] endpoint = endpoints[node % endpoints.length].split(":");
                ConnectionFactory factory = new ConnectionFactory();
                factory.setHost(endpoint[0]);
                factory.setPort(Integer.parseInt(endpoint[1]));
                factory.useSslProtocol(context());
                factory.enableHostnameVerification();
                if (external) {
                    factory.setSaslConfig(DefaultSaslConfig.EXTERNAL);
                }
                connections.add(factory.newConnection("interop"));
            }
            work(connections.get(0), connections.get(1));
            for (Connection connection : connections) {
                connection.close();
            }
        }
    }

    private static Connection connect(int node) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(URLS[node % URLS.length]);
        factory.setRequestedHeartbeat(10);
        return factory.newConnection("interop");
    }

    private static String name(String label) {
        return "interop." + System.getenv("RUN_ID") + "." + label;
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    private static void equal(Object actual, Object expected, String what) {
        if (!String.valueOf(actual).equals(String.valueOf(expected))) {
            throw new AssertionError(what + ": expected " + expected + ", got " + actual);
        }
    }

    private static Delivery next(BlockingQueue<Delivery> deliveries) throws InterruptedException {
        Delivery delivery = deliveries.poll(20, TimeUnit.SECONDS);
        if (delivery == null) {
            throw new AssertionError("no delivery within 20 s");
        }
        return delivery;
    }

    private static BlockingQueue<Delivery> consume(Channel channel, String queue, boolean noAck) throws IOException {
        BlockingQueue<Delivery> deliveries = new LinkedBlockingQueue<>();
        channel.basicConsume(queue, noAck, (tag, delivery) -> deliveries.add(delivery), tag -> { });
        return deliveries;
    }

    private static AMQP.BasicProperties properties(int number) {
        Map<String, Object> headers = new LinkedHashMap<>();
        headers.put("big", 1L << 40);
        headers.put("decimal", new BigDecimal("3.14"));
        headers.put("float", 1.5);
        headers.put("int", 7);
        headers.put("list", List.of(1, "two", true));
        headers.put("none", null);
        headers.put("table", Map.of("inner", Map.of("deep", "value")));
        headers.put("text", "value");
        headers.put("when", new Date(1_700_000_000_000L));
        headers.put("yes", true);
        return new AMQP.BasicProperties.Builder()
            .contentType("application/json").contentEncoding("utf-8").headers(headers).deliveryMode(2).priority(5)
            .correlationId("correlation").replyTo("somewhere").expiration("600000").messageId("message-" + number)
            .timestamp(new Date(1_700_000_000_000L)).type("kind").userId("guest").appId("interop").build();
    }

    private static void work(Connection publisher, Connection consumer) throws Exception {
        Channel sending = publisher.createChannel();
        Channel receiving = consumer.createChannel();
        String queue = name("java.work");
        AMQP.Queue.DeclareOk declared = sending.queueDeclare(queue, true, false, false, null);
        equal(declared.getMessageCount() + " " + declared.getConsumerCount(), "0 0", "declare-ok");
        sending.confirmSelect();
        receiving.basicQos(3);
        BlockingQueue<Delivery> deliveries = consume(receiving, queue, false);
        for (int number = 0; number < 20; number++) {
            sending.basicPublish("", queue, properties(number), bytes("body " + number));
        }
        sending.waitForConfirmsOrDie(20_000);
        for (int number = 0; number < 20; number++) {
            Delivery got = next(deliveries);
            equal(text(got.getBody()), "body " + number, "body");
            equal(got.getProperties(), properties(number), "properties");
            equal(got.getEnvelope().isRedeliver(), false, "redelivered");
            receiving.basicAck(got.getEnvelope().getDeliveryTag(), false);
        }
        sending.basicPublish("", queue, null, new byte[1 << 20]);
        Delivery big = next(deliveries);
        equal(big.getBody().length, 1 << 20, "size of a big body");
        receiving.basicReject(big.getEnvelope().getDeliveryTag(), true);
        Delivery again = next(deliveries);
        equal(again.getEnvelope().isRedeliver(), true, "redelivered");
        receiving.basicAck(again.getEnvelope().getDeliveryTag(), false);

        BlockingQueue<String> returned = new LinkedBlockingQueue<>();
        sending.addReturnListener(message -> returned.add(message.getReplyText()));
        sending.basicPublish("", name("nowhere"), true, null, bytes("unroutable"));
        sending.waitForConfirmsOrDie(20_000);
        equal(returned.poll(), "NO_ROUTE", "returned before the confirm");
        equal(sending.queueDelete(queue).getMessageCount(), 0, "messages left");
    }

    private static void routing(Connection publisher, Connection consumer) throws Exception {
        Channel sending = publisher.createChannel();
        Channel receiving = consumer.createChannel();
        String topic = name("java.topic");
        String fanout = name("java.fanout");
        receiving.exchangeDeclare(topic, BuiltinExchangeType.TOPIC, true);
        receiving.exchangeDeclare(fanout, BuiltinExchangeType.FANOUT, false, true, null);
        receiving.exchangeBind(fanout, topic, "#");
        String narrow = receiving.queueDeclare().getQueue();
        String wide = receiving.queueDeclare().getQueue();
        receiving.queueBind(narrow, topic, "*.orange.*");
        receiving.queueBind(wide, fanout, "");
        BlockingQueue<Delivery> few = consume(receiving, narrow, true);
        BlockingQueue<Delivery> all = consume(receiving, wide, true);
        for (String key : List.of("lazy.pink.rabbit", "quick.orange.rabbit")) {
            sending.basicPublish(topic, key, null, bytes(key));
        }
        List<String> keys = new ArrayList<>();
        keys.add(next(all).getEnvelope().getRoutingKey());
        keys.add(next(all).getEnvelope().getRoutingKey());
        equal(keys, List.of("lazy.pink.rabbit", "quick.orange.rabbit"), "everything");
        equal(next(few).getEnvelope().getRoutingKey(), "quick.orange.rabbit", "orange only");
        receiving.exchangeDelete(topic);
    }

    /** By a queue of the client's own, or by direct reply-to, the library's default. */
    private static void rpc(Connection publisher, Connection consumer, boolean direct) throws Exception {
        Channel server = publisher.createChannel();
        String queue = server.queueDeclare(name("java.rpc"), false, false, true, null).getQueue();
        server.basicConsume(queue, false, (tag, request) -> {
            int number = Integer.parseInt(text(request.getBody()));
            AMQP.BasicProperties reply = new AMQP.BasicProperties.Builder()
                .correlationId(request.getProperties().getCorrelationId()).build();
            server.basicPublish("", request.getProperties().getReplyTo(), reply, bytes(String.valueOf(2 * number)));
            server.basicAck(request.getEnvelope().getDeliveryTag(), false);
        }, tag -> { });
        Channel channel = consumer.createChannel();
        RpcClientParams parameters = new RpcClientParams().channel(channel).exchange("").routingKey(queue).timeout(20_000);
        if (!direct) {
            parameters.replyTo(channel.queueDeclare().getQueue());
        }
        RpcClient client = new RpcClient(parameters);
        for (int number = 0; number < 10; number++) {
            equal(client.stringCall(String.valueOf(number)), 2 * number, "answer");
        }
        client.close();
    }

    private interface Attempt {
        void on(Channel channel) throws IOException;
    }

    private static void refused(Connection connection, int code, Attempt attempt) throws Exception {
        Channel channel = connection.createChannel();
        try {
            attempt.on(channel);
            throw new AssertionError("expected a refusal with " + code);
        } catch (IOException error) {
            Method reason = ((ShutdownSignalException) error.getCause()).getReason();
            equal(((AMQP.Channel.Close) reason).getReplyCode(), code, "reply code");
        }
    }

    private static void cancelled(Connection publisher, Connection consumer) throws Exception {
        Channel receiving = consumer.createChannel();
        String queue = receiving.queueDeclare(name("java.cancel"), true, false, false, null).getQueue();
        BlockingQueue<String> cancels = new LinkedBlockingQueue<>();
        String tag = receiving.basicConsume(queue, true, (t, delivery) -> { }, cancels::add);
        publisher.createChannel().queueDelete(queue);
        equal(cancels.poll(20, TimeUnit.SECONDS), tag, "the consumer is told of its queue's end");
    }

    private static void unknownTag(Connection connection) throws Exception {
        Channel channel = connection.createChannel();
        BlockingQueue<Integer> codes = new LinkedBlockingQueue<>();
        channel.addShutdownListener(cause -> codes.add(((AMQP.Channel.Close) cause.getReason()).getReplyCode()));
        try {
            channel.basicAck(99, false);
        } catch (AlreadyClosedException closed) {
            // It was quick.
        }
        equal(codes.poll(20, TimeUnit.SECONDS), 406, "reply code for an unknown delivery tag");
    }

    /**
     * The library's own recovery, of connection and topology: publishes numbered messages, and again what was not
     * confirmed, until the connection was lost and recovered; all must arrive at the durable queue. A queue of this
     * connection alone is bound to the same exchange, and hears of what comes after the recovery.
     */
    private static void recover(String queue, String exchange) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(URLS[0]);
        factory.setNetworkRecoveryInterval(200);
        List<Address> addresses = new ArrayList<>();
        for (String url : URLS) {
            addresses.add(Address.parseAddress(url.replaceAll("^.*@", "").replaceAll("/.*$", "")));
        }
        // In this order, so that the first is the one that is killed.
        ListAddressResolver inOrder = new ListAddressResolver(addresses) {
            @Override
            public List<Address> maybeShuffle(List<Address> unshuffled) {
                return unshuffled;
            }
        };
        Connection connection = factory.newConnection((ExecutorService) null, inOrder, "recovery");
        BlockingQueue<Boolean> recovered = new LinkedBlockingQueue<>();
        ((Recoverable) connection).addRecoveryListener(new RecoveryListener() {
            @Override
            public void handleRecovery(Recoverable recoverable) {
                recovered.add(true);
            }

            @Override
            public void handleRecoveryStarted(Recoverable recoverable) { }
        });
        Channel receiving = connection.createChannel();
        receiving.exchangeDeclare(exchange, BuiltinExchangeType.TOPIC, true);
        receiving.queueDeclare(queue, true, false, false, Map.of("x-queue-type", "quorum"));
        receiving.queueBind(queue, exchange, "k.*");
        String own = receiving.queueDeclare().getQueue();
        receiving.queueBind(own, exchange, "k.#");
        receiving.basicQos(10);
        Set<String> received = ConcurrentHashMap.newKeySet();
        Set<String> heard = ConcurrentHashMap.newKeySet();
        receiving.basicConsume(queue, false, (tag, delivery) -> {
            received.add(text(delivery.getBody()));
            try {
                receiving.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            } catch (IOException | AlreadyClosedException gone) {
                // It comes again.
            }
        }, tag -> { });
        receiving.basicConsume(own, true, (tag, delivery) -> heard.add(text(delivery.getBody())), tag -> { });
        Channel sending = connection.createChannel();
        sending.confirmSelect();
        int after = 0;
        Set<String> late = new HashSet<>();
        int number = 0;
        for (; after < 100; number++) {
            String body = String.valueOf(number);
            while (true) {
                try {
                    sending.basicPublish(exchange, "k.x", MessageProperties.PERSISTENT_BASIC, bytes(body));
                    sending.waitForConfirmsOrDie(5_000);
                    break;
                } catch (IOException | ShutdownSignalException | TimeoutException lost) {
                    Thread.sleep(50);
                }
            }
            if (number == 50) {
                System.out.println("ready");
            }
            if (after > 0 || recovered.poll() != null) {
                after += 1;
                // The message of this moment may have been published before the binding was back.
                if (after == 1) {
                    System.out.println("recovered");
                } else {
                    late.add(body);
                }
            }
        }
        for (long until = System.nanoTime() + 20_000_000_000L; received.size() < number || !heard.containsAll(late);) {
            if (System.nanoTime() > until) {
                throw new AssertionError(received.size() + " of " + number + " arrived, and " + heard.size());
            }
            Thread.sleep(10);
        }
        System.out.println("done " + number);
        connection.close();
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length == 3 && arguments[0].equals("recover")) {
            recover(arguments[1], arguments[2]);
            return;
        }
        if (arguments.length == 1 && arguments[0].equals("tls")) {
            tls();
            return;
        }
        try (Connection publisher = connect(0); Connection consumer = connect(1)) {
            if (arguments.length == 1 && arguments[0].equals("direct-reply-to")) {
                rpc(publisher, consumer, true);
                return;
            }
            work(publisher, consumer);
            routing(publisher, consumer);
            rpc(publisher, consumer, false);
            refused(publisher, 404, channel -> channel.queueDeclarePassive(name("java.missing")));
            refused(publisher, 406, channel -> channel.exchangeDeclare("amq.fanout", "direct", true));
            refused(publisher, 403, channel -> channel.queueDeclare("amq.reserved", true, false, false, null));
            cancelled(publisher, consumer);
            unknownTag(publisher);
            equal(publisher.isOpen(), true, "the connection outlives its channels' errors");
        }
    }
}
