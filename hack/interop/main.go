// Asks a picker what a gateway would, through grpc-go: the HTTP/2 that most of the world's gRPC speaks.
//
// Messages stay bytes, so nothing is generated: what is examined is the transport, and the few messages of ext_proc that
// move it are written by hand. Prints one line for each promise; the first that is broken ends the program.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

const (
	process     = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
	check       = "/grpc.health.v1.Health/Check"
	patience    = 30 * time.Second
	sideBySide  = 1000
	largeBytes  = 4 << 20
	destination = "x-gateway-destination-endpoint"
)

var (
	buffered = []byte("\x12\x00\x5a\x02\x08\x02") // request_headers; protocol_config {request_body_mode: BUFFERED}
	duplex   = []byte("\x12\x00\x5a\x02\x08\x04") // the same with FULL_DUPLEX_STREAMED
	body     = []byte("\x22\x06\x0a\x02{}\x10\x01")
)

// raw is the codec that leaves bytes alone.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (raw) Name() string                       { return "proto" }

type picker struct{ *grpc.ClientConn }

func (p picker) unary(ctx context.Context, method string, request []byte) ([]byte, error) {
	var answer []byte
	return answer, p.Invoke(ctx, method, &request, &answer)
}

func (p picker) stream(ctx context.Context) (grpc.ClientStream, error) {
	return p.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, process)
}

// pick plays a request as Envoy does in the mode BUFFERED, and ends it well.
func (p picker) pick(ctx context.Context) error {
	stream, err := p.stream(ctx)
	if err != nil {
		return err
	}
	var answer []byte
	for _, message := range [][]byte{buffered, body} {
		if err := stream.SendMsg(&message); err != nil {
			return err
		}
		if err := stream.RecvMsg(&answer); err != nil {
			return err
		}
	}
	if !bytes.Contains(answer, []byte(destination)) {
		return fmt.Errorf("no destination in %q", answer)
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&answer); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the stream ended with %v", err)
	}
	return nil
}

func wants(want codes.Code, err error) error {
	if got := status.Code(err); got != want {
		return fmt.Errorf("status %v (%v) instead of %v", got, err, want)
	}
	return nil
}

func (p picker) health(ctx context.Context) error {
	answer, err := p.unary(ctx, check, []byte("\x0a\x08liveness"))
	if err == nil && !bytes.Equal(answer, []byte("\x08\x01")) {
		err = fmt.Errorf("%q is not SERVING", answer)
	}
	return err
}

func (p picker) errors(ctx context.Context) error {
	if _, err := p.unary(ctx, check, []byte("\x0a\x05other")); wants(codes.NotFound, err) != nil {
		return wants(codes.NotFound, err)
	}
	if _, err := p.unary(ctx, "/no.such.Service/Method", nil); wants(codes.Unimplemented, err) != nil {
		return wants(codes.Unimplemented, err)
	}
	stream, err := p.stream(ctx)
	if err != nil {
		return err
	}
	for range 2 { // request headers twice: against the protocol
		_ = stream.SendMsg(&buffered)
	}
	var answer []byte
	for err == nil {
		err = stream.RecvMsg(&answer)
	}
	return wants(codes.InvalidArgument, err)
}

func (p picker) deadline(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	stream, err := p.stream(ctx)
	if err != nil {
		return err
	}
	var answer []byte
	_ = stream.SendMsg(&buffered)
	for err == nil {
		err = stream.RecvMsg(&answer)
	}
	return wants(codes.DeadlineExceeded, err)
}

func (p picker) sideBySide(ctx context.Context) error {
	var all sync.WaitGroup
	results := make(chan error, sideBySide)
	for range sideBySide {
		all.Add(1)
		go func() { defer all.Done(); results <- p.pick(ctx) }()
	}
	all.Wait()
	close(results)
	for err := range results {
		if err != nil {
			return err
		}
	}
	return nil
}

// large sends a body that no window holds, and counts what comes back in pieces: its byte is in no envelope.
func (p picker) large(ctx context.Context) error {
	stream, err := p.stream(ctx)
	if err != nil {
		return err
	}
	sent := bytes.Repeat([]byte{0xff}, largeBytes)
	inner := append(append([]byte{0x0a}, varint(len(sent))...), sent...)
	inner = append(inner, 0x10, 0x01)
	message := append(append([]byte{0x22}, varint(len(inner))...), inner...)
	if err := stream.SendMsg(&duplex); err != nil {
		return err
	}
	if err := stream.SendMsg(&message); err != nil {
		return err
	}
	for got := 0; got != len(sent); {
		var answer []byte
		if err := stream.RecvMsg(&answer); err != nil || got > len(sent) {
			return fmt.Errorf("after %d bytes of %d: %w", got, len(sent), err)
		}
		got += bytes.Count(answer, sent[:1])
	}
	return stream.CloseSend()
}

func varint(value int) []byte {
	var out []byte
	for value >= 0x80 {
		out = append(out, byte(value)|0x80)
		value >>= 7
	}
	return append(out, byte(value))
}

func (p picker) cancelled(ctx context.Context) error {
	for range 100 {
		each, cancel := context.WithCancel(ctx)
		stream, err := p.stream(each)
		if err == nil {
			_ = stream.SendMsg(&buffered)
			_ = stream.SendMsg(&body)
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return p.pick(ctx)
}

// aged asks all the time while the server lets connections grow old.
func (p picker) aged(ctx context.Context) error {
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		if err := p.pick(ctx); err != nil {
			return err
		}
	}
	return nil
}

func trust(ca, name, cert, key string) (credentials.TransportCredentials, error) {
	if ca == "" {
		return insecure.NewCredentials(), nil
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	config := &tls.Config{RootCAs: pool, ServerName: name, MinVersion: tls.VersionTLS12}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}

func main() {
	address := flag.String("address", "", "host:port of the picker")
	ca := flag.String("ca", "", "PEM file of the CA to trust; without it, no TLS")
	name := flag.String("name", "", "name in the picker's certificate")
	cert := flag.String("cert", "", "PEM file of the certificate to show")
	key := flag.String("key", "", "PEM file of its key")
	flag.Parse()
	shown, err := trust(*ca, *name, *cert, *key)
	if err != nil {
		fmt.Println("FAILED files:", err)
		os.Exit(1)
	}
	connection, err := grpc.NewClient(
		*address,
		grpc.WithTransportCredentials(shown),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(largeBytes), grpc.WaitForReady(true)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, PermitWithoutStream: true}),
	)
	if err != nil {
		fmt.Println("FAILED connection:", err)
		os.Exit(1)
	}
	defer connection.Close()
	p := picker{connection}
	for _, promise := range []struct {
		what string
		keep func(context.Context) error
	}{
		{"health is answered", p.health},
		{"a request gets a destination", p.pick},
		{"errors have their codes", p.errors},
		{"a deadline ends a call", p.deadline},
		{"a thousand streams run side by side", p.sideBySide},
		{"a large body passes both ways", p.large},
		{"streams that are given up do no harm", p.cancelled},
		{"connections that grow old lose nothing", p.aged},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := promise.keep(ctx)
		cancel()
		if err != nil {
			fmt.Printf("FAILED %s: %v\n", promise.what, err)
			os.Exit(1)
		}
		fmt.Println("ok", promise.what)
	}
}
