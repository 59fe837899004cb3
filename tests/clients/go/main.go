// Sends numbered records with Fluent's own Go logger, the library inside of Docker's driver.
//
//	go-client HOST PORT COUNT
//
// COUNT records each with the tags go.plain (whole seconds), go.nano (EventTime), go.acked (an ack for each record),
// go.async (the background queue, with acks) and go.json (JSON instead of MessagePack).
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/fluent/fluent-logger-golang/fluent"
)

func main() {
	port, _ := strconv.Atoi(os.Args[2])
	count, _ := strconv.Atoi(os.Args[3])
	ways := map[string]fluent.Config{
		"go.plain": {},
		"go.nano":  {SubSecondPrecision: true},
		"go.acked": {RequestAck: true},
		"go.async": {RequestAck: true, Async: true, BufferLimit: count},
		"go.json":  {MarshalAsJSON: true},
	}
	failed := 0
	for tag, config := range ways {
		config.FluentHost, config.FluentPort = os.Args[1], port
		logger, err := fluent.New(config)
		if err != nil {
			fmt.Fprintln(os.Stderr, tag, err)
			os.Exit(1)
		}
		for seq := 0; seq < count; seq++ {
			record := map[string]interface{}{"seq": seq, "text": "grüße ✓", "ratio": 2.5, "none": nil}
			if err := logger.Post(tag, record); err != nil {
				failed++
				fmt.Fprintln(os.Stderr, tag, seq, err)
			}
		}
		// The queue is sent before this returns.
		if err := logger.Close(); err != nil {
			failed++
			fmt.Fprintln(os.Stderr, tag, err)
		}
	}
	if failed > 0 {
		os.Exit(1)
	}
}
