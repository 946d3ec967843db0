// Package v20170312 stands in for Tencent's client of its cloud, which flannel's daemon is linked
// with: 20 MB that not every module proxy has, for a cloud in which no lab runs. Just enough to
// compile; the calls fail, and nobody makes them.
package v20170312

import "errors"

var errNoCloud = errors.New("built without the client of Tencent's cloud")

// Client would ask the cloud.
type Client struct{}

// Filter selects route tables.
type Filter struct {
	Name   *string
	Values []*string
}

// Route is one entry of a route table.
type Route struct {
	DestinationCidrBlock, GatewayType, GatewayId, RouteType *string
	RouteId                                                 *uint64
	Enabled                                                 *bool
}

// RouteTable is what the cloud would list.
type RouteTable struct {
	RouteTableId *string
	RouteSet     []*Route
}

// Request has the fields of the three requests that the backend makes.
type Request struct {
	Filters      []*Filter
	RouteTableId *string
	Routes       []*Route
}

// Tables is the content of a response.
type Tables struct{ RouteTableSet []*RouteTable }

// Response would be the cloud's.
type Response struct{ Response *Tables }

// NewClientWithSecretId makes a client that reaches nobody.
func NewClientWithSecretId(id, key, region string) (*Client, error) { return &Client{}, nil }

// NewDescribeRouteTablesRequest makes an empty request.
func NewDescribeRouteTablesRequest() *Request { return &Request{} }

// NewDeleteRoutesRequest makes an empty request.
func NewDeleteRoutesRequest() *Request { return &Request{} }

// NewCreateRoutesRequest makes an empty request.
func NewCreateRoutesRequest() *Request { return &Request{} }

// DescribeRouteTables fails.
func (*Client) DescribeRouteTables(*Request) (*Response, error) { return nil, errNoCloud }

// DeleteRoutes fails.
func (*Client) DeleteRoutes(*Request) (*Response, error) { return nil, errNoCloud }

// CreateRoutes fails.
func (*Client) CreateRoutes(*Request) (*Response, error) { return nil, errNoCloud }
