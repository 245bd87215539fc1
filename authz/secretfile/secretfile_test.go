package secretfile_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"jwtbouncer/authz/secretfile"
)

func TestRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string // nil: an error
		says string
	}{
		"one line":               {"secret\n", []string{"secret"}, ""},
		"no line break":          {"secret", []string{"secret"}, ""},
		"CRLF":                   {"secret\r\n", []string{"secret"}, ""},
		"spaces":                 {" my 0123456789abcdef \n", []string{" my 0123456789abcdef "}, ""},
		"number sign":            {"#NdhMw3!?:R+7_8{EsKU44W(<", []string{"#NdhMw3!?:R+7_8{EsKU44W(<"}, ""},
		"quotes stay":            {`"secret"`, []string{`"secret"`}, ""},
		"not ASCII":              {"pässwörd", []string{"pässwörd"}, ""},
		"byte-order mark":        {"\ufeffsecret\r\n", []string{"secret"}, ""},
		"blank":                  {" ", nil, "line 1 is empty"},
		"two lines":              {"one\ntwo\n", []string{"one", "two"}, ""},
		"two lines, CRLF":        {"one\r\ntwo\r\n", []string{"one", "two"}, ""},
		"empty":                  {"", nil, "line 1 is empty"},
		"a line break":           {"\n", nil, "line 1 is empty"},
		"CRLF alone":             {"\r\n", nil, "line 1 is empty"},
		"a byte-order mark":      {"\ufeff", nil, "line 1 is empty"},
		"an empty line too many": {"secret\n\n", nil, "line 2 is empty"},
		"an empty line first":    {"\nsecret\n", nil, "line 1 is empty"},
		"CR in the line":         {"sec\rret", nil, "line 1 holds a control character"},
		"tab":                    {"sec\tret", nil, "line 1 holds a control character"},
		"NUL":                    {"sec\x00ret", nil, "line 1 holds a control character"},
		"placeholder":            {"CHANGE-ME-redis-password", nil, "line 1 begins with CHANGE-ME"},
		"lower-case placeholder": {"one\nchange-me\n", nil, "line 2 begins with CHANGE-ME"},
		"placeholder inside":     {"not CHANGE-ME", []string{"not CHANGE-ME"}, ""},
		"UTF-16":                 {"\xff\xfes\x00e\x00c\x00", nil, "line 1 holds a control character"},
		"huge":                   {strings.Repeat("x", 64<<10+1), nil, "larger than 65536 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "f")
			require.NoError(t, os.WriteFile(path, []byte(c.text), 0o600))
			all, err := secretfile.ReadLines(path)
			one, oneErr := secretfile.Read(path)
			if c.want == nil {
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, path)
				require.Equal(t, err, oneErr)
				require.NotContains(t, err.Error(), "sec\r")
				require.NotContains(t, err.Error(), "redis-password")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.want, all)
			if len(c.want) == 1 {
				require.NoError(t, oneErr)
				assert.Equal(t, c.want[0], one)
			} else {
				require.ErrorContains(t, oneErr, path+" has more than one line")
				assert.Empty(t, one)
			}
		})
	}
	_, err := secretfile.Read(filepath.Join(t.TempDir(), "away"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
