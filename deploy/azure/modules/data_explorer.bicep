// The prediction log and the ledgers. Ledgers are streamed: the cluster has to have streaming ingestion enabled.
param environmentName string
param location string
param skuName string
param skuTier string
param instances int
param retentionDays int
param privateNetworking bool
param platformClientId string
param scoringClientId string

@description('azure.kusto_database')
param databaseName string = 'active_learning'

resource cluster 'Microsoft.Kusto/clusters@2024-04-13' = {
  name: 'adx${environmentName}${take(uniqueString(resourceGroup().id), 6)}'
  location: location
  sku: {
    name: skuName
    tier: skuTier
    capacity: instances
  }
  properties: {
    enableStreamingIngest: true
    enableDiskEncryption: true
    enableAutoStop: false // a loop that is idle for days would find its cluster stopped
    publicNetworkAccess: privateNetworking ? 'Disabled' : 'Enabled'
  }
}

resource database 'Microsoft.Kusto/clusters/databases@2024-04-13' = {
  parent: cluster
  name: databaseName
  location: location
  kind: 'ReadWrite'
  properties: {
    softDeletePeriod: 'P36500D' // the tables' own policies forget predictions earlier
    hotCachePeriod: 'P31D'
  }
}

// What `al azure init` does, too; `python docs/reference.py` writes the file, a test holds it to the code.
resource tables 'Microsoft.Kusto/clusters/databases/scripts@2024-04-13' = {
  parent: database
  name: 'tables'
  properties: {
    scriptContent: replace(loadTextContent('../tables.kql'), 'softdelete = 730d', 'softdelete = ${retentionDays}d')
    continueOnErrors: false
  }
}

var grants = [
  { name: 'platform-viewer', clientId: platformClientId, role: 'Viewer' }
  { name: 'platform-ingestor', clientId: platformClientId, role: 'Ingestor' }
  { name: 'scoring-viewer', clientId: scoringClientId, role: 'Viewer' }
  { name: 'scoring-ingestor', clientId: scoringClientId, role: 'Ingestor' }
]

@batchSize(1) // a cluster does one thing at a time
resource principals 'Microsoft.Kusto/clusters/databases/principalAssignments@2024-04-13' = [for grant in grants: {
  parent: database
  name: grant.name
  properties: {
    principalId: grant.clientId
    principalType: 'App'
    role: grant.role
    tenantId: tenant().tenantId
  }
  dependsOn: [
    tables
  ]
}]

output clusterId string = cluster.id
output kustoUri string = cluster.properties.uri
output databaseName string = database.name
