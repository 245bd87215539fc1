package k8s

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/stretchr/testify/require"
)

// recorded holds metrics, one per line with a value per minute, in the notation
// of promtool's tests: jwt_bouncer_x{pod="a"} 0x5 1+1x3. (promtool's own test
// package depends on the libraries of every cloud.)
type recorded []string

type point struct {
	ms int64
	v  float64
}

func (p point) T() int64                    { return p.ms }
func (point) ST() int64                     { return 0 }
func (p point) F() float64                  { return p.v }
func (point) H() *histogram.Histogram       { return nil }
func (point) FH() *histogram.FloatHistogram { return nil }
func (point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample         { return p }

// series is a storage.SeriesSet. Its first element is the current one; it starts
// with a placeholder.
type series []storage.Series

func (s *series) Next() bool {
	if len(*s) > 0 {
		*s = (*s)[1:]
	}
	return len(*s) > 0
}
func (s *series) At() storage.Series              { return (*s)[0] }
func (*series) Err() error                        { return nil }
func (*series) Warnings() annotations.Annotations { return nil }

// query evaluates expr at the given minute and returns values by labels.
func (r recorded) query(t *testing.T, expr string, at int) map[string]float64 {
	t.Helper()
	var all []storage.Series
	for _, line := range r {
		l, values, err := promParser.ParseSeriesDesc(line)
		require.NoErrorf(t, err, "%s", line)
		var points []chunks.Sample
		for i, v := range values {
			if !v.Omitted {
				points = append(points, point{int64(i) * time.Minute.Milliseconds(), v.Value})
			}
		}
		all = append(all, storage.NewListSeries(l, points))
	}
	data := &storage.MockQueryable{MockQuerier: &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		found := series{nil}
		for _, s := range all {
			if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Labels().Get(m.Name)) }) {
				found = append(found, s)
			}
		}
		return &found
	}}}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000, Timeout: time.Minute, Parser: promParser})
	q, err := engine.NewInstantQuery(t.Context(), data, nil, expr, time.UnixMilli(0).Add(time.Duration(at)*time.Minute))
	require.NoError(t, err)
	defer q.Close()
	vector, err := q.Exec(t.Context()).Vector()
	require.NoError(t, err)
	out := map[string]float64{}
	for _, s := range vector {
		out[s.Metric.String()] = s.F
	}
	return out
}
