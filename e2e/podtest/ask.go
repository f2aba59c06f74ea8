package podtest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// patience is how long an answer may take.
const patience = 5 * time.Second

// Get returns what an HTTP server answers.
func Get(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	// A connection of its own for each, as a Service chooses for each anew.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return strings.TrimSpace(string(body)), err
}

// Resolve asks a name server, host:port, once and from a port of its own, and
// returns the answer.
func Resolve(ctx context.Context, server string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tries := 0
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if tries++; tries > 1 {
			return nil, fmt.Errorf("%s did not answer the first query", server)
		}
		return new(net.Dialer).DialContext(ctx, "udp", server)
	}}
	texts, err := r.LookupTXT(ctx, "pod.godwit.test.")
	return strings.Join(texts, ""), err
}

// answer is the answer to a DNS query (RFC 1035 section 4), or nil if it is none.
func answer(query []byte, text string) []byte {
	var m dnsmessage.Message
	var p dnsmessage.Parser
	var err error
	if m.Header, err = p.Start(query); err != nil || m.Response {
		return nil
	}
	if m.Questions, err = p.AllQuestions(); err != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.Authoritative = true, true
	if q := m.Questions[0]; q.Type == dnsmessage.TypeTXT {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
			Body:   &dnsmessage.TXTResource{TXT: []string{text}},
		}}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}
