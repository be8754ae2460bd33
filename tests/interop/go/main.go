// amqp091-go: declare, publish with confirms, consume with acknowledgements, route, ask and answer, err, close.
// Called as `produce URL EXCHANGE KEY COUNT` it is the producer that feeds a consumer in another language.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func value[T any](result T, err error) T {
	must(err)
	return result
}

func equal(actual, expected any, what string) {
	if !reflect.DeepEqual(actual, expected) {
		panic(fmt.Sprintf("%s: expected %#v, got %#v", what, expected, actual))
	}
}

func next(deliveries <-chan amqp.Delivery) amqp.Delivery {
	select {
	case delivery, open := <-deliveries:
		if !open {
			panic("the consumer was closed")
		}
		return delivery
	case <-time.After(20 * time.Second):
		panic("no delivery within 20 s")
	}
}

func url(node int) string {
	urls := strings.Split(os.Getenv("AMQP_URLS"), ",")
	return urls[node%len(urls)]
}

func name(label string) string {
	return "interop." + os.Getenv("RUN_ID") + "." + label
}

var when = time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)

func full(number int) amqp.Publishing {
	return amqp.Publishing{
		Headers: amqp.Table{
			"text": "value", "int8": int8(-8), "int16": int16(-16), "int32": int32(-32), "int64": int64(1) << 40,
			"byte": byte(200), "float32": float32(1.5), "float64": 2.25, "yes": true, "none": nil, "when": when,
			"bytes": []byte{0, 255}, "decimal": amqp.Decimal{Scale: 2, Value: 314},
			"list": []interface{}{int32(1), "two", true}, "table": amqp.Table{"inner": amqp.Table{"deep": "value"}},
		},
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 5,
		CorrelationId: "correlation", ReplyTo: "somewhere", Expiration: "600000",
		MessageId: fmt.Sprintf("message-%d", number), Timestamp: when, Type: "kind", UserId: "guest", AppId: "interop",
		Body: []byte(fmt.Sprintf("body %d", number)),
	}
}

func work(ctx context.Context, publisher, consumer *amqp.Connection) {
	sending, receiving := value(publisher.Channel()), value(consumer.Channel())
	queue := value(sending.QueueDeclare(name("go.work"), true, false, false, false, nil))
	equal(queue, amqp.Queue{Name: name("go.work")}, "declare-ok")
	must(sending.Confirm(false))
	must(receiving.Qos(3, 0, false))
	deliveries := value(receiving.Consume(queue.Name, "", false, false, false, false, nil))
	for number := 0; number < 20; number++ {
		confirm := value(sending.PublishWithDeferredConfirmWithContext(ctx, "", queue.Name, true, false, full(number)))
		if acknowledged := value(confirm.WaitContext(ctx)); !acknowledged {
			panic("a publish was refused")
		}
	}
	for number := 0; number < 20; number++ {
		got, sent := next(deliveries), full(number)
		equal(string(got.Body), string(sent.Body), "body")
		got.Headers["when"] = got.Headers["when"].(time.Time).UTC()
		equal(got.Headers, sent.Headers, "headers")
		equal(
			[]any{got.ContentType, got.ContentEncoding, got.DeliveryMode, got.Priority, got.CorrelationId, got.ReplyTo,
				got.Expiration, got.MessageId, got.Timestamp.UTC(), got.Type, got.UserId, got.AppId},
			[]any{sent.ContentType, sent.ContentEncoding, sent.DeliveryMode, sent.Priority, sent.CorrelationId, sent.ReplyTo,
				sent.Expiration, sent.MessageId, sent.Timestamp, sent.Type, sent.UserId, sent.AppId}, "properties")
		equal(got.Redelivered, false, "redelivered")
		must(got.Ack(false))
	}
	must(sending.PublishWithContext(ctx, "", queue.Name, false, false, amqp.Publishing{Body: make([]byte, 1<<20)}))
	big := next(deliveries)
	equal(len(big.Body), 1<<20, "size of a big body")
	must(big.Nack(false, true))
	again := next(deliveries)
	equal(again.Redelivered, true, "redelivered")
	must(again.Ack(false))

	returns := sending.NotifyReturn(make(chan amqp.Return, 1))
	confirm := value(sending.PublishWithDeferredConfirmWithContext(ctx, "", name("nowhere"), true, false, amqp.Publishing{}))
	equal(value(confirm.WaitContext(ctx)), true, "an unroutable message is confirmed")
	equal((<-returns).ReplyText, "NO_ROUTE", "and returned before that")
	equal(value(sending.QueueDelete(queue.Name, false, false, false)), 0, "messages left")
}

func routing(ctx context.Context, publisher, consumer *amqp.Connection) {
	sending, receiving := value(publisher.Channel()), value(consumer.Channel())
	topic, fanout := name("go.topic"), name("go.fanout")
	must(receiving.ExchangeDeclare(topic, "topic", true, false, false, false, nil))
	must(receiving.ExchangeDeclare(fanout, "fanout", false, true, false, false, nil))
	must(receiving.ExchangeBind(fanout, "#", topic, false, nil))
	narrow := value(receiving.QueueDeclare("", false, false, true, false, nil))
	wide := value(receiving.QueueDeclare("", false, false, true, false, nil))
	must(receiving.QueueBind(narrow.Name, "*.orange.*", topic, false, nil))
	must(receiving.QueueBind(wide.Name, "", fanout, false, nil))
	few := value(receiving.Consume(narrow.Name, "", true, true, false, false, nil))
	all := value(receiving.Consume(wide.Name, "", true, false, false, false, nil))
	for _, key := range []string{"lazy.pink.rabbit", "quick.orange.rabbit"} {
		must(sending.PublishWithContext(ctx, topic, key, false, false, amqp.Publishing{Body: []byte(key)}))
	}
	equal(next(all).RoutingKey, "lazy.pink.rabbit", "everything")
	equal(next(all).RoutingKey, "quick.orange.rabbit", "everything")
	equal(next(few).RoutingKey, "quick.orange.rabbit", "orange only")
	must(receiving.ExchangeDelete(topic, false, false))
}

func rpc(ctx context.Context, publisher, consumer *amqp.Connection) {
	server, client := value(publisher.Channel()), value(consumer.Channel())
	requests := value(server.QueueDeclare(name("go.rpc"), false, true, false, false, nil))
	incoming := value(server.Consume(requests.Name, "", false, false, false, false, nil))
	go func() {
		for request := range incoming {
			number := value(strconv.Atoi(string(request.Body)))
			reply := amqp.Publishing{CorrelationId: request.CorrelationId, Body: []byte(strconv.Itoa(2 * number))}
			must(server.PublishWithContext(ctx, "", request.ReplyTo, false, false, reply))
			must(request.Ack(false))
		}
	}()
	replies := value(client.QueueDeclare("", false, false, true, false, nil))
	answers := value(client.Consume(replies.Name, "", true, false, false, false, nil))
	for number := 0; number < 10; number++ {
		request := amqp.Publishing{CorrelationId: strconv.Itoa(number), ReplyTo: replies.Name, Body: []byte(strconv.Itoa(number))}
		must(client.PublishWithContext(ctx, "", requests.Name, false, false, request))
		answer := next(answers)
		equal([]string{answer.CorrelationId, string(answer.Body)}, []string{strconv.Itoa(number), strconv.Itoa(2 * number)}, "answer")
	}
}

func refusals(connection *amqp.Connection) {
	for code, attempt := range map[int]func(*amqp.Channel) error{
		404: func(channel *amqp.Channel) error {
			_, err := channel.QueueDeclarePassive(name("go.missing"), true, false, false, false, nil)
			return err
		},
		406: func(channel *amqp.Channel) error {
			return channel.ExchangeDeclare("amq.fanout", "direct", true, false, false, false, nil)
		},
		403: func(channel *amqp.Channel) error {
			_, err := channel.QueueDeclare("amq.reserved", true, false, false, false, nil)
			return err
		},
	} {
		var refusal *amqp.Error
		if err := attempt(value(connection.Channel())); !errors.As(err, &refusal) || refusal.Code != code {
			panic(fmt.Sprintf("expected a refusal with %d, got %v", code, err))
		}
	}
	equal(connection.IsClosed(), false, "the connection outlives its channels' errors")
}

func produce(arguments []string) {
	connection := value(amqp.Dial(arguments[0]))
	channel := value(connection.Channel())
	must(channel.Confirm(false))
	for number := 0; number < value(strconv.Atoi(arguments[3])); number++ {
		message := amqp.Publishing{
			Headers: amqp.Table{
				"attempt": int32(number), "tenant": "acme",
				"nested": amqp.Table{"list": []interface{}{int32(1), "two", true}},
			},
			ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Persistent, Priority: 4,
			CorrelationId: fmt.Sprintf("correlation-%d", number), ReplyTo: "answers", Expiration: "600000",
			MessageId: fmt.Sprintf("order-%d", number), Timestamp: when, Type: "order.created", UserId: "guest",
			AppId: "go-service", Body: []byte(fmt.Sprintf(`{"order":%d}`, number)),
		}
		confirm := value(channel.PublishWithDeferredConfirmWithContext(
			context.Background(), arguments[1], arguments[2], true, false, message))
		equal(confirm.Wait(), true, "confirmed")
	}
	must(connection.Close())
}

// session connects to a node, declares everything, and publishes numbers from *number on, each until it is confirmed,
// while it receives. It returns when the connection is lost, or with true when it has published enough of them.
func session(at string, queue, exchange string, number *int, seen map[string]bool, again bool) bool {
	connection, err := amqp.Dial(at)
	if err != nil {
		return false
	}
	defer connection.Close()
	gone := connection.NotifyClose(make(chan *amqp.Error, 1))
	receiving, err := connection.Channel()
	if err != nil {
		return false
	}
	sending, err := connection.Channel()
	if err != nil {
		return false
	}
	if receiving.ExchangeDeclare(exchange, "topic", true, false, false, false, nil) != nil {
		return false
	}
	if _, err := receiving.QueueDeclare(queue, true, false, false, false, amqp.Table{"x-queue-type": "quorum"}); err != nil {
		return false
	}
	if receiving.QueueBind(queue, "k.*", exchange, false, nil) != nil || receiving.Qos(10, 0, false) != nil {
		return false
	}
	deliveries, err := receiving.Consume(queue, "", false, false, false, false, nil)
	if err != nil || sending.Confirm(false) != nil {
		return false
	}
	confirms := sending.NotifyPublish(make(chan amqp.Confirmation, 1))
	published := func() bool {
		message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte(strconv.Itoa(*number))}
		return sending.PublishWithContext(context.Background(), exchange, "k.x", false, false, message) == nil
	}
	open, after := published(), 0
	limit := time.After(60 * time.Second)
	for open {
		select {
		case delivery, more := <-deliveries:
			if !more {
				return false
			}
			seen[string(delivery.Body)] = true
			if delivery.Ack(false) != nil {
				return false
			}
			if after == 100 && len(seen) == *number {
				return true
			}
		case confirm, more := <-confirms:
			if !more || !confirm.Ack {
				return false
			}
			*number++
			if !again && *number == 50 {
				fmt.Println("ready")
			}
			if again {
				after++
				if after == 1 {
					fmt.Println("recovered")
				}
			}
			if after == 100 {
				if len(seen) == *number {
					return true
				}
				continue
			}
			open = published()
		case <-gone:
			return false
		case <-limit:
			panic(fmt.Sprintf("%d of %d arrived", len(seen), *number))
		}
	}
	return false
}

// reconnect goes on with the next node for as long as it takes, as the library's example does.
func reconnect(queue, exchange string) {
	number, seen := 0, map[string]bool{}
	for attempt := 0; ; attempt++ {
		if session(url(attempt), queue, exchange, &number, seen, attempt > 0) {
			fmt.Printf("done %d\n", number)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func main() {
	log.SetFlags(0)
	if len(os.Args) == 4 && os.Args[1] == "recover" {
		reconnect(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) == 6 && os.Args[1] == "produce" {
		produce(os.Args[2:])
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	publisher, consumer := value(amqp.Dial(url(0))), value(amqp.Dial(url(1)))
	work(ctx, publisher, consumer)
	routing(ctx, publisher, consumer)
	rpc(ctx, publisher, consumer)
	refusals(publisher)
	must(publisher.Close())
	must(consumer.Close())
}
