package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// play prints commands to copy, then executes the same steps itself.
func (s *stage) play(ctx context.Context) error {
	token, jti, err := s.mint(ctx)
	if err != nil {
		return err
	}
	s.say(`
To try it yourself, in another terminal with KEEP=1:
  TOKEN=$(curl -s %[1]s/token)
  curl -i -H "Authorization: Bearer $TOKEN" %[2]s/orders
  curl -i %[2]s/orders
  curl -i -H 'Content-Type: application/json' -d "{\"token\":\"$TOKEN\",\"reason\":\"lost laptop\"}" %[3]s/v1/revocations
  curl -i -H "Authorization: Bearer $TOKEN" %[2]s/orders
`, s.issuer, s.envoyURL, s.apiURL)

	s.say("1. a valid token, and a forged x-jwt-sub header")
	a, err := s.get(ctx, token, map[string]string{"x-jwt-sub": "admin"})
	if err != nil {
		return err
	}
	var echo struct{ Headers map[string]string }
	if err := json.Unmarshal(a.body, &echo); err != nil || a.status != http.StatusOK {
		return fmt.Errorf("a valid token was answered %d %s\n%s", a.status, a.body, s.logs())
	}
	if got := echo.Headers["x-jwt-sub"]; got != demoSubject {
		return fmt.Errorf("upstream saw x-jwt-sub %q, want %q", got, demoSubject)
	}
	s.say("   → 200; upstream saw x-jwt-sub: %s, x-jwt-iss: %s", echo.Headers["x-jwt-sub"], echo.Headers["x-jwt-iss"])

	s.say("2. no token")
	if err := s.denied(ctx, ""); err != nil {
		return err
	}
	s.say("3. the token with its sub changed to admin")
	if err := s.denied(ctx, tamper(token)); err != nil {
		return err
	}
	s.say("4. revoke it: POST /v1/revocations {\"jti\": %q, \"reason\": \"lost laptop\"}", jti)
	receipt, err := s.revoke(ctx, jti)
	if err != nil {
		return err
	}
	revoked := time.Now()
	s.say("   → 201 %s", receipt)
	s.say("5. the same token again")
	for n := 1; ; n++ {
		a, err := s.get(ctx, token, nil)
		if err != nil {
			return err
		}
		took := time.Since(revoked)
		if a.status == http.StatusUnauthorized {
			s.say("   → 401 %s", a.challenge)
			s.say("     %.1f ms after the revocation was acknowledged (request %d)", float64(took.Microseconds())/1000, n)
			return nil
		}
		if took > 30*time.Second {
			return fmt.Errorf("the revoked token still passes (%d) after %s\n%s", a.status, took, s.logs())
		}
	}
}

type answer struct {
	status    int
	challenge string
	body      []byte
}

func (s *stage) get(ctx context.Context, token string, headers map[string]string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.envoyURL+"/orders", nil)
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for k, v := range headers {
		req.Header.Set(k, v)
	}
	return s.do(req)
}

func (s *stage) do(req *http.Request) (answer, error) {
	res, err := s.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	return answer{res.StatusCode, res.Header.Get("WWW-Authenticate"), body}, err
}

func (s *stage) denied(ctx context.Context, token string) error {
	a, err := s.get(ctx, token, nil)
	if err != nil {
		return err
	}
	if a.status != http.StatusUnauthorized {
		return fmt.Errorf("answered %d, want 401\n%s", a.status, s.logs())
	}
	s.say("   → 401 %s", a.challenge)
	return nil
}

func (s *stage) revoke(ctx context.Context, jti string) (string, error) {
	body, err := json.Marshal(map[string]string{"jti": jti, "reason": "lost laptop"})
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.apiURL+"/v1/revocations", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	a, err := s.do(req)
	if err == nil && a.status != http.StatusCreated {
		err = fmt.Errorf("revoke was answered %d %s\n%s", a.status, a.body, s.logs())
	}
	return strings.Join(strings.Fields(string(a.body)), " "), err
}

// mint gets a token and its jti from the issuer.
func (s *stage) mint(ctx context.Context) (token, jti string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.issuer+"/token?format=json", nil)
	if err != nil {
		return "", "", err
	}
	a, err := s.do(req)
	if err != nil {
		return "", "", err
	}
	var t struct{ Token, JTI string }
	if err := json.Unmarshal(a.body, &t); err != nil || t.Token == "" {
		return "", "", fmt.Errorf("the demo issuer answered %d %s", a.status, a.body)
	}
	return t.Token, t.JTI, nil
}

// tamper changes the sub of the token to admin and keeps the signature.
func tamper(token string) string {
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		panic(err) // the demo issuer's own token
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(bytes.ReplaceAll(payload, []byte(demoSubject), []byte("admin")))
	return strings.Join(parts, ".")
}
