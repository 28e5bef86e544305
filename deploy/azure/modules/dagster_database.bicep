// PostgreSQL for Dagster's runs, events and schedules: they outlive every container.
param environmentName string
param location string

@secure()
param password string

@description('Delegated subnet; empty: reached over the internet, from Azure alone, with TLS')
param subnetId string

param dnsZoneId string

resource server 'Microsoft.DBforPostgreSQL/flexibleServers@2024-08-01' = {
  name: 'psql-${environmentName}-${take(uniqueString(resourceGroup().id), 6)}'
  location: location
  sku: {
    name: 'Standard_B1ms'
    tier: 'Burstable'
  }
  properties: {
    version: '16'
    administratorLogin: 'dagster'
    administratorLoginPassword: password
    storage: {
      storageSizeGB: 32
      autoGrow: 'Enabled'
    }
    backup: {
      backupRetentionDays: 7
      geoRedundantBackup: 'Disabled'
    }
    network: empty(subnetId) ? {
      publicNetworkAccess: 'Enabled'
    } : {
      publicNetworkAccess: 'Disabled'
      delegatedSubnetResourceId: subnetId
      privateDnsZoneArmResourceId: dnsZoneId
    }
  }
}

resource database 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2024-08-01' = {
  parent: server
  name: 'dagster'
  properties: {
    charset: 'UTF8'
    collation: 'en_US.utf8'
  }
}

// The address 0.0.0.0 stands for everything inside Azure; the password still decides.
resource azureOnly 'Microsoft.DBforPostgreSQL/flexibleServers/firewallRules@2024-08-01' = if (empty(subnetId)) {
  parent: server
  name: 'azure'
  properties: {
    startIpAddress: '0.0.0.0'
    endIpAddress: '0.0.0.0'
  }
  dependsOn: [
    database // the server does one thing at a time
  ]
}

output host string = server.properties.fullyQualifiedDomainName
